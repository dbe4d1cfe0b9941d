"""How a run that a guard stopped is taken up again: from which checkpoint, with which other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from refine_rl.errors import GuardStop
from refine_rl.run import RunFolder
from refine_rl.settings import Settings

Value = float | str
"""Of a setting; a text in capitals stands for what a person knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """When to go this way, the checkpoint to go back to (None: on from where it stopped), and the settings
    that change."""

    when: str
    step: int | None = None
    change: Mapping[str, Value] = field(default_factory=dict)


def ways(stop: GuardStop, folder: RunFolder) -> list[Way]:
    """The ways on after a guard."""
    settings = folder.settings()
    g = settings.grpo
    if folder.config.kind() == "sft" and stop.guard == "not_finite":
        return [_slower(folder, "sft.learning_rate", settings.sft_learning_rate)]
    match stop.guard:
        case "missing":
            longer = {"reward.timeout": 2 * settings.reward.timeout}
            return [
                *(
                    [Way(when="With twice the time for a call", change=longer)]
                    if "(reward.timeout)" in stop.what
                    else []
                ),
                Way(when="To go on, once it is mended"),
                Way(when="Where that changed a file of the reward", step=0),
            ]
        case "budget":
            return [Way(when="To go on with twice the budget", change=_more(stop, settings))]
        case "not_finite" | "exploding_gradient":
            return [_slower(folder, "grpo.learning_rate", settings.learning_rate)]
        case "all_cut":
            patience = {"grpo.all_cut_patience": 10 * g.all_cut_patience}
            all_the_same = Way(when="To go on all the same", change=patience)
            from refine_rl.training.guards import ENDED  # late: torch

            first = next(iter(folder.metrics()), None)
            if first is None or first["clipped_share"] >= ENDED:
                return [all_the_same]
            return [_slower(folder, "grpo.learning_rate", settings.learning_rate), all_the_same]
        case "no_variance":
            last = max((int(metrics["step"]) for metrics in folder.metrics()), default=1)
            return [
                Way(when="To end it here", change={"grpo.steps": last}),
                Way(
                    when="To try on",
                    change={"grpo.zero_variance_patience": 3 * g.zero_variance_patience},
                ),
            ]
        case "mismatch" if stop.limit is not None:
            wider = {"grpo.mismatch_tolerance": float(f"{stop.limit:.2g}")}
            return [Way(when="Where it is rounding", change=wider)]
        case "negative_reward":
            return [
                Way(when="To go on by another advantage", change={"grpo.advantage": "rloo"}),
                Way(when="Where the reward was mended", step=0),
            ]
        case "no_thoughts":
            ends: dict[str, Value] = {"rollout.early_exit.ends": "TEXT"}
            return [Way(when="To go on with the TEXT that the model uses", change=ends)]
    return [Way(when="To go on all the same")]


def _slower(folder: RunFolder, key: str, rate: float) -> Way:
    change = {key: float(f"{rate / 2:g}")}
    return Way(when="To go back, and on at half the rate", step=_earlier(folder), change=change)


def _more(stop: GuardStop, settings: Settings) -> dict[str, Value]:
    """Twice the budget, or twice what is used of it where that is more: the base model's answers alone may
    have taken all of it."""
    budget = settings.budget

    def more(given: float | None) -> float:
        return float(f"{max(2 * (given or 1.0), stop.limit or 0.0):.3g}")

    if "budget.dollars" in stop.what and budget.dollars is not None:
        return {"budget.dollars": more(budget.dollars)}
    return {"budget.hours": more(budget.hours)}


def _earlier(folder: RunFolder) -> int:
    """The newest checkpoint but the last, which may be too near to what went wrong; 0 where there is none."""
    return next(iter(folder.checkpoints()[-2:-1]), 0)
