"""How a run that stopped is taken up again: commands that work as they stand, with what the advice says in
their flags."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from refine_rl.report.screen import shown

if TYPE_CHECKING:
    from refine_rl.errors import GuardStop
    from refine_rl.run import RunFolder
    from refine_rl.settings import Settings

Way = tuple[str, str]
"""When to go this way, and the flags behind `refine train --resume RUN`."""


def commands(stop: GuardStop, folder: RunFolder, go_on: str) -> str:
    """The ways on after a guard, a line each; `go_on` is the command without flags."""
    return "\n".join(
        f"{when}: {go_on}{' ' * bool(flags)}{shown(flags)}" for when, flags in ways(stop, folder)
    )


def ways(stop: GuardStop, folder: RunFolder) -> list[Way]:
    """The ways on after a guard."""
    settings = folder.settings()
    g = settings.grpo
    if folder.config.kind() == "sft" and stop.guard == "not_finite":
        lower = f"--set sft.learning_rate={settings.sft_learning_rate / 2:g}"
        return [("To go back, and on at half the rate", f"--from-step {_earlier(folder)} {lower}")]
    match stop.guard:
        case "missing":
            longer = f"--set reward.timeout={2 * settings.reward.timeout:g}"
            return [
                *([("With twice the time for a call", longer)] if "(reward.timeout)" in stop.what else []),
                ("To go on, once it is mended", ""),
                ("Where that changed a file of the reward", "--from-step 0"),
            ]
        case "budget":
            return [("To go on with twice the budget", _more(stop, settings))]
        case "not_finite" | "exploding_gradient":
            back = _earlier(folder)
            lower = f"--from-step {back} --set grpo.learning_rate={settings.learning_rate / 2:g}"
            return [("To go back, and on at half the rate", lower)]
        case "all_cut":
            return [("To go on all the same", f"--set grpo.all_cut_patience={10 * g.all_cut_patience}")]
        case "no_variance":
            steps = [int(metrics["step"]) for metrics in folder.metrics()]
            return [
                ("To end it here", f"--set grpo.steps={max(steps, default=1)}"),
                ("To try on", f"--set grpo.zero_variance_patience={3 * g.zero_variance_patience}"),
            ]
        case "mismatch" if stop.limit is not None:
            return [("Where it is rounding", f"--set grpo.mismatch_tolerance={stop.limit:.2g}")]
        case "no_thoughts":
            ends = shlex.quote("rollout.early_exit.ends=TEXT")
            return [("To go on with the TEXT that the model uses", f"--set {ends}")]
    return [("To go on all the same", "")]


def _more(stop: GuardStop, settings: Settings) -> str:
    budget = settings.budget
    if "budget.dollars" in stop.what and budget.dollars is not None:
        return f"--set budget.dollars={2 * budget.dollars:g}"
    return f"--set budget.hours={2 * (budget.hours or 1.0):g}"


def _earlier(folder: RunFolder) -> int:
    """The newest checkpoint but the last, which may be too near to what went wrong; 0 where there is none."""
    return next(iter(folder.checkpoints()[-2:-1]), 0)
