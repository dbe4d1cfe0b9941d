"""JSON schemas whose patterns are held against text of a model in bounded time (text/patterns.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from refine_rl.errors import SettingsError
from refine_rl.rewards.text.patterns import pattern


def bounded(dialect: Any) -> Any:
    """The validator class `dialect` of jsonschema, with our patterns in the place of those of `re`."""
    import jsonschema

    additional = dialect.VALIDATORS.get("additionalProperties")

    def of_text(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[Any]:
        if validator.is_type(instance, "string") and not pattern(wanted).search(instance):
            yield jsonschema.ValidationError(f"{instance!r} does not match {wanted!r}")

    def of_names(validator: Any, wanted: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
        if validator.is_type(instance, "object"):
            for text, inner in wanted.items():
                for name, value in instance.items():
                    if pattern(text).search(name):
                        yield from validator.descend(value, inner, path=name, schema_path=text)

    def of_others(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
        named = schema.get("patternProperties", {})
        if named and validator.is_type(instance, "object"):
            instance = {k: v for k, v in instance.items() if not any(pattern(p).search(k) for p in named)}
            schema = {k: v for k, v in schema.items() if k != "patternProperties"}
        yield from additional(validator, allowed, instance, schema)

    ours = {"pattern": of_text, "patternProperties": of_names, "additionalProperties": of_others}
    known = {keyword: check for keyword, check in ours.items() if keyword in dialect.VALIDATORS}
    return jsonschema.validators.extend(dialect, known)  # type: ignore[no-untyped-call]


def check_patterns(schema: Any) -> None:
    """Raise a SettingsError for a pattern in the schema that is no regular expression."""
    if isinstance(schema, list):
        for entry in schema:
            check_patterns(entry)
    if not isinstance(schema, dict):
        return
    texts = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    if isinstance(schema.get("patternProperties"), dict):
        texts += schema["patternProperties"]
    for text in texts:
        try:
            pattern(text)
        except re.error as error:
            raise SettingsError(f"`schema`: {text!r} is not a regular expression: {error}") from None
    for value in schema.values():
        check_patterns(value)
