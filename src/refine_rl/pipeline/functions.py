"""Reward functions that were given from Python, and so cannot be found from a run's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from refine_rl.errors import UserError
from refine_rl.rewards.functions.own import function_reward
from refine_rl.run import RunFolder


def require_functions(folder: RunFolder, rewards: Sequence[Callable[..., Any]]) -> None:
    """Raises UserError unless `rewards` has the names of the functions that the run was started with:
    those that came from Python cannot be found from files."""
    wanted, given = folder.config.python_rewards(), function_names(rewards)
    if wanted == given:
        return
    names = ", ".join(wanted)
    if not wanted:
        raise UserError(f"{folder.path} was started without Python reward functions: give none.")
    raise UserError(
        f"{folder.path} was started with the Python reward functions [{names}], not with "
        f"[{', '.join(given)}]; go on from Python, with the same: "
        f"refine_rl.resume({str(folder.path)!r}, rewards=[{names}])"
    )


def function_names(rewards: Sequence[Callable[..., Any]]) -> list[str]:
    """The components' names; refuses what is no reward function before anything is written."""
    if callable(rewards):
        raise UserError("rewards is a list of functions: rewards=[...]")
    return [function_reward(f).name for f in rewards]
