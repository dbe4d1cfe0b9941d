"""Code of the user's that was given from Python, and so cannot be found from a run's files: reward functions,
the class of a world, tools. A run has their names on record, and wants things of these names again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError
from refine_rl.foreign.given import PYTHON
from refine_rl.rewards.functions.own import function_reward
from refine_rl.run import RunFolder

_PLACE = f"{PYTHON}:"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The names of what was given.

    >>> Names(rewards=("brevity",), environment="Guess").arguments
    'rewards=[brevity], environment=Guess'
    """

    rewards: tuple[str, ...] = ()
    environment: str = ""
    tools: tuple[str, ...] = ()

    @property
    def arguments(self) -> str:
        """As they stand in a call; "" where nothing was given."""
        lists = {"rewards": self.rewards, "tools": self.tools}
        listed = {name: f"{name}=[{', '.join(names)}]" for name, names in lists.items() if names}
        world = {"environment": f"environment={self.environment}"} if self.environment else {}
        found = {**listed, **world}
        return ", ".join(found[name] for name in ("rewards", "environment", "tools") if name in found)


def wanted(folder: RunFolder) -> Names:
    """The names of what was given to a run."""
    rollout = folder.settings().rollout
    found = rollout.environment
    return Names(
        rewards=tuple(folder.config.python_rewards()),
        environment=found.removeprefix(_PLACE) if found.startswith(_PLACE) else "",
        tools=tuple(tool.removeprefix(_PLACE) for tool in rollout.tools if tool.startswith(_PLACE)),
    )


def resume_call(folder: RunFolder, *more: str) -> str:
    """The call that goes on with a run from Python; `more` are further arguments.

    >>> from unittest.mock import Mock
    >>> run = Mock(path="runs/a")
    >>> run.config.kind.return_value = run.config.verb.return_value = "sft"
    >>> resume_call(run, "step=3")
    "refine_rl.resume_sft('runs/a', step=3)"
    """
    own = "" if folder.config.kind() == "sft" else wanted(folder).arguments
    return call_to_resume(folder.config.verb(), folder.path, own, *more)


def call_to_resume(verb: str, path: Path | str, *arguments: str) -> str:
    """The call that does what `refine VERB --resume PATH` does; an empty argument is left out."""
    whole = ", ".join(filter(None, (repr(str(path)), *arguments)))
    return f"refine_rl.resume{'_sft' if verb == 'sft' else ''}({whole})"


def require_given(folder: RunFolder, given: Given, *, scores: bool = True, verb: str = "") -> None:
    """Raises UserError unless what is given has the names of what the run was started with; its reward
    functions apart where nothing `scores`. `verb` is what is done with it, where that is not to go on."""
    asked, named = wanted(folder), given.names
    if not scores:
        asked = replace(asked, rewards=())
    if asked == named:
        return
    if not asked.arguments:
        raise UserError(
            f"{folder.path} was started without any code from Python (Python reward functions, a class, "
            f"tools): leave {named.arguments} out."
        )
    call = f"refine_rl.{verb}({str(folder.path)!r}, ..., {asked.arguments})" if verb else resume_call(folder)
    raise UserError(
        f"{folder.path} was started with code from Python, {asked.arguments}, not with "
        f"{named.arguments or 'none'}; {'do it' if verb else 'go on'} from Python, with the same: {call}"
    )


def function_names(rewards: Sequence[Callable[..., Any]]) -> list[str]:
    """The components' names; refuses what is no reward function before anything is written."""
    return [function_reward(f).name for f in rewards]


def name_of(given: Any) -> str:
    """The name of a class or a function."""
    inner = given.func if isinstance(given, partial) else given
    return str(getattr(inner, "__name__", type(inner).__name__))
