"""The names under which numbers are shown: what belongs together begins alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "reward_mean": "reward/mean",
    "reward_std": "reward/std",
    "components": "component",
    "groups": "groups/all",
    "groups_zero_variance": "groups/zero_variance",
    "groups_missing": "groups/missing",
    "groups_by_steps": "groups/by_steps",
    "members_missing": "groups/members_missing",
    "tokens_mean": "tokens/mean",
    "clipped_share": "tokens/clipped_share",
    "tokens_per_second": "tokens/per_second",
    "tokens": "tokens/all",
    "targets": "tokens/targets",
    "distinct_share": "content/distinct_share",
    "kept_share": "content/kept_share",
    "by_length": "content/by_length",
    "turns_mean": "turns/mean",
    "mismatch_mean": "mismatch/mean",
    "mismatch_max": "mismatch/max",
    "importance_mean": "importance/mean",
    "importance_max": "importance/max",
    "cost_usd": "cost/usd",
    "validation_loss": "",  # stands in the record of validations
    "openings": "",  # its keys are words of answers
}
"""Of a step's metrics; what has no name here is shown below "train/". "" leaves it out."""
_TABLES = ("seconds", "ends", "components")


def step_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics. What is unknown (None) is left out.

    >>> step_values({"step": 3, "reward_mean": 0.5, "kl": None, "loss": 1, "seconds": {"train": 2.0}})
    {'step': 3.0, 'reward/mean': 0.5, 'train/loss': 1.0, 'seconds/train': 2.0}
    """
    found: dict[str, float] = {"step": float(metrics["step"])}
    for key, value in metrics.items():
        name = NAMES.get(key, key if key in _TABLES else f"train/{key}")
        if key != "step" and name:
            found |= numbers(value, name)
    return found


def validation_values(look: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a look at the validation prompts or rows.

    >>> validation_values({"step": 0, "reward": {"mean": 0.5, "ci95": [0.25, 1.0]}, "success": 0.0})
    {'step': 0.0, 'validation/reward': 0.5, 'validation/reward/low': 0.25, 'validation/reward/high': 1.0, \
'validation/success': 0.0}
    """
    found: dict[str, float] = {"step": float(look["step"])}
    for key, value in look.items():
        if key != "step":
            found |= numbers(value, "validation/component" if key == "components" else f"validation/{key}")
    return found


def comparison_values(comparison: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a comparison, each estimate as its mean and the ends of its interval.

    >>> comparison_values({"tuned": {"mean": 0.5, "ci95": [0.25, 1.0]}, "verdict": "better"})
    {'comparison/tuned': 0.5, 'comparison/tuned/low': 0.25, 'comparison/tuned/high': 1.0}
    """
    wanted = ("prompts", "base", "tuned", "difference", "details", "others", "metrics")
    found: dict[str, float] = {}
    for key in wanted:
        found |= numbers(comparison.get(key), f"comparison/{key}")
    return found


def numbers(value: object, name: str) -> dict[str, float]:
    """The numbers in `value`, which is one, or a table of such, below `name`; the mean of an estimate has the
    estimate's own name."""
    if isinstance(value, bool | int | float):
        return {name: float(value)}
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, float] = {}
    for key, inner in value.items():
        if key == "ci95":
            found |= {f"{name}/low": float(inner[0]), f"{name}/high": float(inner[1])}
        else:
            found |= numbers(inner, name if key == "mean" and "ci95" in value else f"{name}/{key}")
    return found
