"""`grpo.thrifty`: settings that make more of each scored group, where a person has said nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from refine_rl.settings.grpo import GRPOSettings
from refine_rl.settings.whole import Settings

MINIBATCHES = 4
UPDATES = 4
KL_STOP = 0.03
REPLAY = 2


def with_preset(settings: Settings, given: Collection[str]) -> Settings:
    """The settings with what grpo.thrifty fills in; `given` are the keys of [grpo] that a person has set.

    What would be refused beside other settings is left out. Passes come with their stop alone: without it
    a few of them lead astray.
    """
    if not settings.grpo.thrifty:
        return settings
    found = {key: value for key, value in _preset(settings, given).items() if key not in given}
    return settings.model_copy(update={"grpo": settings.grpo.model_copy(update=found)})


def _preset(settings: Settings, given: Collection[str]) -> Mapping[str, Any]:
    g = settings.grpo
    values: dict[str, Any] = {}
    minibatches = g.minibatches if "minibatches" in given else min(MINIBATCHES, g.prompts_per_step)
    stops = settings.model.dropout == 0
    updates = g.updates_per_step if "updates_per_step" in given or not stops else UPDATES
    values |= {"minibatches": minibatches, "updates_per_step": updates, "schedule": "linear"}
    if settings.teacher is None:
        values["replay"] = REPLAY
    if stops and updates * minibatches > 1:
        values["kl_stop"] = KL_STOP
    return values


def unsaid(before: Mapping[str, Any], said: Collection[str]) -> dict[str, Any]:
    """[grpo] of settings that were written whole, without what the preset may fill in: keys that it has, that
    stand at their defaults, and that nobody has `said` now."""
    fields = GRPOSettings.model_fields
    filled = {"minibatches", "updates_per_step", "kl_stop", "schedule", "replay"} - {*said}
    return {k: v for k, v in before.items() if k not in filled or v != fields[k].default}
