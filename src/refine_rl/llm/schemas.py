"""Forms of replies as strict endpoints want them: nothing optional, nothing else. Properties are written in
their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refine_rl.llm.client import Schema


def strict(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with these properties.

    >>> strict({"id": {"type": "string"}})["required"]
    ['id']
    """
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def explained(name: str, properties: Mapping[str, Any]) -> Schema:
    """The form {explanation, properties}: a judge explains before it decides."""
    return Schema(name=name, schema=strict({"explanation": {"type": "string"}, **properties}))


def listed(key: str, properties: Mapping[str, Any], *, name: str = "") -> Schema:
    """The form {key: [{properties}]}, called `name` (without one, `key`)."""
    items = {"type": "array", "items": strict(properties)}
    return Schema(name=name or key, schema=strict({key: items}))
