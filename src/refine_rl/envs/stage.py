"""A user's environment, loaded and understood, and the threads in which it runs.

It is foreign code, and is treated as reward functions are (foreign/workers.py): plain methods run one after
the other in one thread, async ones at the same time in the event loop of another, beside the sampling; a call
whose time is over is stopped, or left behind with its thread.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from refine_rl.envs.base import Stepped
from refine_rl.envs.gymnasium import gymnasium_world, is_gymnasium
from refine_rl.envs.tools.tool import load_tools
from refine_rl.envs.tools.world import world_class
from refine_rl.errors import SettingsError
from refine_rl.foreign.load import load_named
from refine_rl.foreign.seats import Failure, Limit
from refine_rl.foreign.values import number, show, truth
from refine_rl.foreign.workers import Workers
from refine_rl.policy.tools import TOOL
from refine_rl.settings import RolloutSettings

_KEY = "rollout.environment"
_FORM = "a class with `start(self, data, seed)` and `step(self, reply)`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """An environment that was made and started, and what it said."""

    environment: Any
    said: str


class Stage:
    """Makes environments by calling `make`, and their calls in threads of its own, which end with it. `turns`
    and `tokens` limit a trajectory (0 tokens: only what the model reads does); `seconds` a call. `role` is
    whose words an environment's are in the conversation."""

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        name: str,
        turns: int = 8,
        tokens: int = 0,
        seconds: float = 30.0,
        as_sampled: bool = False,
        role: str = "user",
    ) -> None:
        self.make, self.name = make, name
        self.turns, self.tokens, self.as_sampled, self.role = turns, tokens, as_sampled, role
        self._limit = Limit(seconds=seconds, setting="rollout.turn_timeout")
        self._waits = any(
            inspect.iscoroutinefunction(getattr(make, method, None)) for method in ("start", "step")
        )
        self._workers: Workers | None = None

    def start(self, data: Mapping[str, Any], seed: int, members: int) -> Future[list[Started | Failure]]:
        """An environment a member, made and started; a Failure in the place of one that could not be."""
        return self._begin([partial(self._made, data, seed) for _ in range(members)], read_said)

    def step(self, games: Sequence[tuple[Any, str]]) -> Future[list[Stepped | Failure]]:
        """What environments answer to a reply each; a Failure in the place of what raised, hung, or answered
        nonsense."""
        return self._begin([partial(_stepped, *game) for game in games], read_step)

    def _made(self, data: Mapping[str, Any], seed: int) -> _Called:
        environment = self.make()
        return _Called(environment, environment.start(copy.deepcopy(dict(data)), seed))

    def _begin(
        self, calls: Sequence[Callable[[], _Called]], read: Callable[[_Called], Any]
    ) -> Future[list[Any]]:
        if self._workers is None:
            self._workers = Workers()
            self._workers.__enter__()
            weakref.finalize(self, self._workers.close, wait=False)
        if self._waits:
            asked = [partial(_awaited, call, read) for call in calls]
            return _together(self._workers.begin_async(asked, limit=self._limit))
        return self._workers.begin(
            [partial(_read, c, read) for c in calls], name=self.name, limit=self._limit
        )


@dataclass(frozen=True, slots=True)
class _Called:
    environment: Any
    answer: Any


def _stepped(environment: Any, reply: str) -> _Called:
    return _Called(environment, environment.step(reply))


def _read(call: Callable[[], _Called], read: Callable[[_Called], Any]) -> Any:
    """Reading belongs to the call: what it gave back is the user's code as well."""
    return read(call())


async def _awaited(call: Callable[[], _Called], read: Callable[[_Called], Any]) -> Any:
    called = call()
    if inspect.isawaitable(called.answer):
        called = _Called(called.environment, await called.answer)
    return read(called)


def _together(futures: Sequence[Future[Any]]) -> Future[list[Any]]:
    """All results, in order, once all are there."""
    every: Future[list[Any]] = Future()
    left, lock = len(futures), Lock()

    def one(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last and any(f.cancelled() for f in futures):
            every.cancel()
        elif last:
            every.set_result([f.result() for f in futures])

    for future in futures:
        future.add_done_callback(one)
    if not futures:
        every.set_result([])
    return every


def read_said(called: _Called) -> Started:
    if not isinstance(called.answer, str):
        raise TypeError(f"start returned {show(called.answer)}, not a text")
    return Started(environment=called.environment, said=called.answer)


def read_step(called: _Called) -> Stepped:
    """A checked answer of `step`; raises TypeError or ValueError with what is wrong."""
    answer = called.answer
    if not isinstance(answer, tuple) or len(answer) != 3:
        raise TypeError(f"step returned {show(answer)}, not a tuple (observation, reward, done)")
    said, reward, done = answer
    value, over = number(reward), truth(done)
    if not isinstance(said, str):
        raise TypeError(f"step returned the observation {show(said)}, not a text")
    if value is None:
        raise ValueError(f"step returned the reward {show(reward)}, not a finite number")
    if over is None:
        raise TypeError(f"step returned {show(done)} for `done`, not True or False")
    return said, value, over


def stage_of(rollout: RolloutSettings, folder: Path) -> Stage | None:
    """The environment that the settings name, or that of their tools, files being relative to `folder`; None
    where they name none. Raises SettingsError where it cannot be had, or is no environment."""
    if rollout.tools:
        make: Any = world_class(load_tools(rollout.tools, folder))
        return _stage(rollout, make, name="tools", role=TOOL)
    spec = rollout.environment
    if not spec:
        return None
    try:
        make = load_named(spec, folder, {}, kind="class", fits=callable)
    except SettingsError as error:
        raise SettingsError(f"{_KEY}: {error}") from error
    if is_gymnasium(make):
        make = gymnasium_world(make)
    else:
        _require_form(spec, make)
    return _stage(rollout, make, name=spec.rpartition(":")[2])


def _stage(rollout: RolloutSettings, make: Callable[[], Any], *, name: str, role: str = "user") -> Stage:
    return Stage(
        make,
        name=name,
        turns=rollout.turns,
        tokens=rollout.trajectory_tokens,
        seconds=rollout.turn_timeout,
        as_sampled=rollout.history == "as_sampled",
        role=role,
    )


def _require_form(spec: str, make: Any) -> None:
    """Raises SettingsError where `make` is no class of environments."""
    if not inspect.isclass(make):
        raise SettingsError(f"{_KEY}: `{spec}` is no class; it wants {_FORM}")
    for method, parameters in (("__init__", ()), ("start", ("data", "seed")), ("step", ("reply",))):
        found = getattr(make, method, None)
        if not callable(found):
            raise SettingsError(f"{_KEY}: `{spec}` has no method `{method}`; it wants {_FORM}")
        try:
            inspect.signature(found).bind(None, *parameters)
        except TypeError:
            shown = f"{method}{inspect.signature(found)}"
            called = ", ".join(parameters) or "no argument"
            raise SettingsError(
                f"{_KEY}: `{spec}` has `{shown}`, and it is called with {called}; it wants {_FORM}"
            ) from None
        except ValueError:  # a signature that cannot be read
            continue
