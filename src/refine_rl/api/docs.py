"""docs/python.md, made from the docstrings of the Python door: `python -m refine_rl.api.docs`. Its beginning
is written by hand (head.md)."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refine_rl import api, errors

_VERBS = {
    "Training": ("train", "resume", "resume_seeds", "sft", "resume_sft", "open_run"),
    "Before it": ("plan", "prompts", "check"),
    "After it": ("evaluate", "compare_runs", "chat", "generate", "export"),
    "Judges alone": ("score_group",),
}
_ERRORS = (
    "RefineError", "UserError", "SettingsError", "GuardStop", "MachineError", "DiskError", "Interrupted",
)  # fmt: skip


def python_markdown() -> str:
    """The page."""
    parts = [Path(__file__).with_name("head.md").read_text(encoding="utf-8").rstrip()]
    for title, names in _VERBS.items():
        parts.append(f"## {title}")
        parts += [_verb(name) for name in names]
    parts.append("## What comes back")
    parts += [_record(name) for name in api.__all__ if inspect.isclass(getattr(api, name))]
    parts.append("## What is raised")
    parts.append("\n".join(_errors()))
    parts.append("## Pieces")
    parts.append(
        "What the verbs are made of, for loops of your own. notebooks/tiny_grpo.ipynb uses them; their "
        "docstrings say the rest."
    )
    parts.append("\n".join(_pieces()))
    return "\n\n".join(parts) + "\n"


def _verb(name: str) -> str:
    function = getattr(api, name)
    return f"### {name}\n\n```python\n{_signature(name, function)}\n```\n\n{_text(function)}"


def _record(name: str) -> str:
    found = getattr(api, name)
    lines = [f"### {name}", _text(found)]
    told = [
        f"- `{attribute}{_call(value)}`: {_first(value)}"
        for attribute, value in inspect.getmembers(found, _is_told)
        if not attribute.startswith("_") or attribute == "__call__"
    ]
    return "\n\n".join([*lines, *(["\n".join(told)] if told else [])])


def _is_told(value: Any) -> bool:
    return (inspect.isfunction(value) or isinstance(value, property)) and bool(inspect.getdoc(value))


def _call(value: Any) -> str:
    return "()" if inspect.isfunction(value) else ""


def _errors() -> Iterator[str]:
    yield "| class | exit code | meaning |\n|---|---|---|"
    for name in _ERRORS:
        kind = getattr(errors, name)
        yield f"| `{name}` | {kind.exit_code} | {' '.join(str(inspect.getdoc(kind)).split())} |"


def _pieces() -> Iterator[str]:
    told = {name for names in _VERBS.values() for name in names} | set(_ERRORS) | set(api.__all__)
    yield "| name | what it is |\n|---|---|"
    package = importlib.import_module("refine_rl")  # by its name: it is made of this room, and others
    for name in package.__all__:
        if name not in told:
            yield f"| `{name}` | {_first(getattr(package, name))} |"


def _first(thing: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s(?=[A-Z])", text, maxsplit=1)[0]


def _signature(name: str, function: Any) -> str:
    """The call with its defaults, a line an argument; types stand in the text, and in the code's hints."""
    lines = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            lines.append(f"    **{parameter.name},")
        elif parameter.default is parameter.empty:
            lines.append(f"    {parameter.name},")
        else:
            default = parameter.default
            shown = json.dumps(default) if isinstance(default, str) else repr(default)
            lines.append(f"    {parameter.name}={shown},")
    return "\n".join([f"refine.{name}(", *lines, ")"])


def _text(thing: Any) -> str:
    """A docstring as Markdown: its arguments become a list."""
    doc = inspect.getdoc(thing) or ""
    before, found, rest = doc.partition("\n\nArgs:\n")
    if not found:
        return doc
    arguments, _, after = rest.partition("\n\n")
    items = re.sub(r"\n {8}", " ", f"\n{arguments}")
    listed = re.sub(r"\n {4}([\w, ]+): ", r"\n- `\1`: ", items).strip()
    return "\n\n".join(filter(None, [before, listed, after]))


if __name__ == "__main__":
    print(python_markdown(), end="")
