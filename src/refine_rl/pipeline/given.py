"""Code of the user's that was given from Python, and so cannot be found from a run's files: reward functions,
the class of a world, tools. A run has their names on record, and wants things of these names again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from refine_rl.errors import UserError
from refine_rl.rewards.functions.own import function_reward
from refine_rl.run import RunFolder
from refine_rl.run.from_python import Names, call


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What was given from Python."""

    rewards: Sequence[Callable[..., Any]] = ()
    environment: type[Any] | None = None
    tools: Sequence[Callable[..., Any]] = ()

    @property
    def named(self) -> dict[str, Any]:
        """What "python:NAME" names in the settings (foreign/given.py)."""
        worlds = [] if self.environment is None else [self.environment]
        return {name_of(one): one for one in (*worlds, *self.tools)}

    @property
    def names(self) -> Names:
        return Names(
            rewards=tuple(function_names(self.rewards)),
            environment="" if self.environment is None else name_of(self.environment),
            tools=tuple(map(name_of, self.tools)),
        )


NOTHING = Given()
"""As from the command line."""


def resume_call(folder: RunFolder, *more: str) -> str:
    """The call that goes on with a run from Python; `more` are further arguments."""
    return folder.config.call_to_resume(*more)


def require_given(folder: RunFolder, given: Given, *, scores: bool = True, verb: str = "") -> None:
    """Raises UserError unless what is given has the names of what the run was started with; its reward
    functions apart where nothing `scores`. `verb` is what is done with it, where that is not to go on."""
    asked, named = folder.config.given(), given.names
    if not scores:
        asked = asked.world
    if asked == named:
        return
    if not asked.arguments:
        raise UserError(
            f"{folder.path} was started without any code from Python (Python reward functions, a class, "
            f"tools): leave {named.arguments} out."
        )
    path = repr(str(folder.path))
    again = call(verb, path, "...", asked.arguments) if verb else resume_call(folder)
    raise UserError(
        f"{folder.path} was started with code from Python, {asked.arguments}, not with "
        f"{named.arguments or 'none'}; {'do it' if verb else 'go on'} from Python, with the same: {again}"
    )


def function_names(rewards: Sequence[Callable[..., Any]]) -> list[str]:
    """The components' names; refuses what is no reward function before anything is written."""
    return [function_reward(f).name for f in rewards]


def name_of(given: Any) -> str:
    """The name of a class or a function."""
    inner = given.func if isinstance(given, partial) else given
    return str(getattr(inner, "__name__", type(inner).__name__))
