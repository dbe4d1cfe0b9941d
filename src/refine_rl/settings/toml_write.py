"""Values as TOML text; `tomllib` reads back exactly what was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # what a string over several lines may not contain
_ESCAPED = re.compile(r'[\x00-\x1f\x7f"\\]')
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def dump_toml(data: Mapping[str, Any]) -> str:
    """A TOML text: plain keys first, then a [table] for each mapping; deeper ones are written inline.

    Keys whose value is None are left out. Raises TypeError where TOML has no such value.

    >>> print(dump_toml({"task": "Say hi.", "grpo": {"steps": 5}}))
    task = "Say hi."
    <BLANKLINE>
    [grpo]
    steps = 5
    <BLANKLINE>
    """
    lines = list(_pairs({k: v for k, v in data.items() if not isinstance(v, Mapping)}))
    for name, table in data.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{toml_key(name)}]", *_pairs(table)]
    return "\n".join(lines).removeprefix("\n") + "\n"


def toml_key(key: str) -> str:
    """A key, in quotes where it needs them."""
    return key if _BARE_KEY.fullmatch(key) else toml_string(key)


def toml_string(text: str) -> str:
    """A string on one line.

    >>> toml_string('say "hi"')
    '"say \\\\"hi\\\\""'
    """
    return '"' + _ESCAPED.sub(lambda m: _ESCAPES.get(m[0], f"\\u{ord(m[0]):04x}"), text) + '"'


def toml_value(value: Any) -> str:
    """A value on one line; mappings become inline tables."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return toml_string(value)
        case int() | float():
            return repr(value)
        case datetime() | date() | time():
            return value.isoformat()
        case Mapping():
            items = (f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None)
            return "{" + ", ".join(items) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(toml_value, value)) + "]"
        case _:
            raise TypeError(f"TOML has no value for {value!r} ({type(value).__name__})")


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if value is not None:
            yield f"{toml_key(key)} = {_pretty(value)}"


def _pretty(value: Any) -> str:
    """A value that may go over several lines: texts with line breaks, lists of tables."""
    if isinstance(value, str) and "\n" in value and '"""' not in value and not _CONTROL.search(value):
        return '"""\n' + value.replace("\\", "\\\\") + '"""'
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return "[\n" + "".join(f"  {toml_value(item)},\n" for item in value) + "]"
    return toml_value(value)
