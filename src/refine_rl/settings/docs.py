"""docs/settings.md, made from the settings themselves: `python -m refine_rl.settings.docs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from refine_rl.settings import Settings
from refine_rl.settings.toml_write import toml_value

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "table",
}
_HEAD = """# Settings

Every key of a task.toml, with its type, its default and its meaning. A key that is not here is refused, with
the nearest one that is. `--set grpo.steps=50` replaces one value for one run. Without a default (–), a key is
either needed or the meaning says what happens without it.

## Top level
"""


def settings_markdown() -> str:
    """The page: a table of keys for each table of task.toml."""
    schema = Settings.model_json_schema()
    tables = schema["$defs"]
    top = {key: field for key, field in schema["properties"].items() if key != "folder"}
    scalars = {key: field for key, field in top.items() if "$ref" not in field}
    parts = [_HEAD, *_table(scalars)]
    for key, field in top.items():
        title = f"[{key}.NAME]" if key in scalars else f"[{key}]"
        for table in _references(field):
            parts += _section(title, tables[table], tables)
    return "\n".join(parts) + "\n"


def _section(title: str, section: dict[str, Any], tables: dict[str, Any]) -> Iterator[str]:
    """A table of task.toml, then those inside it."""
    meaning = _oneline(section["description"]).removeprefix(f"{title}: ")
    yield f"\n## {title}\n\n{meaning[0].upper()}{meaning[1:]}\n"
    yield from _table(section["properties"])
    for key, field in section["properties"].items():
        for inner in _references(field):
            table = title.removeprefix("A table of ").strip("[]")
            yield from _section(f"A table of {table}.{key}", tables[inner], tables)


def _table(fields: dict[str, Any]) -> Iterator[str]:
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for key, field in fields.items():
        default = field.get("default")
        shown = "–" if default is None else f"`{toml_value(default)}`"
        meaning = _oneline(field["description"])
        yield f"| `{key}` | {_cell(_type(field))} | {_cell(shown)} | {_cell(meaning)} |"


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        parts = [_type(part) for part in field["anyOf"] if part.get("type") != "null"]
        return " or ".join(parts)
    if "$ref" in field:
        return "table"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{toml_value(choice)}`" for choice in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return f"list of {_type(field['items'])}".replace("table", "tables")
    limits = [f"{words} {field[limit]:g}" for limit, words in _LIMITS.items() if limit in field]
    return ", ".join([_TYPES[field["type"]], *limits])


def _references(field: dict[str, Any]) -> Iterator[str]:
    """The names of the tables that a field's value may hold."""
    if "$ref" in field:
        yield str(field["$ref"]).rsplit("/", 1)[-1]
    inside = [*field.get("anyOf", []), field.get("items"), field.get("additionalProperties")]
    for part in inside:
        yield from _references(part) if isinstance(part, dict) else ()


def _oneline(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(settings_markdown(), end="")
