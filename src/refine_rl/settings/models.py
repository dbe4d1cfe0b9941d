"""The models that settings name, beside the LLMs of endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refine_rl.settings.whole import Settings


def with_models(settings: Settings, change: Callable[[str, str], str]) -> Settings:
    """The settings, each model in them as `change(key, name)` gives it: the one that is trained, a teacher
    that is loaded here, and those that read texts for the evaluation and for rules. What stays the same is
    not touched, nor counted as set."""
    teacher = settings.teacher
    places: list[tuple[str, str, Any]] = [
        ("model", "name", settings.model),
        ("evaluate", "encoder", settings.evaluate),
    ]
    if teacher is not None and not teacher.served and not teacher.itself:
        places.append(("teacher", "model", teacher))
    tables: dict[str, Any] = {}
    for table, field, values in places:
        before = getattr(values, field)
        if (after := change(f"{table}.{field}", before)) != before:
            tables[table] = values.model_copy(update={field: after})
    rules = list(settings.reward.rules)
    for number, rule in enumerate(rules):
        named = rule.parameters.get("encoder")
        if isinstance(named, str) and (after := change(f"reward.rules[{number}].encoder", named)) != named:
            rules[number] = rule.model_copy(update={"encoder": after})
    if rules != settings.reward.rules:
        tables["reward"] = settings.reward.model_copy(update={"rules": rules})
    return settings.model_copy(update=tables) if tables else settings
