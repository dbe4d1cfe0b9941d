"""A text environment with the interface of Gymnasium, as an environment of ours. It is told by its methods;
nothing of that package is needed.

    reset(seed=..., options=...) -> observation, info
    step(action) -> observation, reward, terminated, truncated, info

`options` are the prompt's data, an action is the policy's reply, and observations are texts. An environment
of other spaces is made one of texts by a wrapper of its own (`gymnasium.Wrapper`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar


class GymnasiumWorld:
    """An environment (`envs/base.py`) around one that `make` makes."""

    make: ClassVar[Any]

    def start(self, data: Mapping[str, Any], seed: int) -> str:
        self._inner = type(self).make()
        found = self._inner.reset(seed=seed, options=dict(data))
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"reset returned {found!r:.80}, not a tuple (observation, info)")
        return _text("reset", found[0])

    def step(self, reply: str) -> tuple[str, float, bool]:
        found = self._inner.step(reply)
        if not isinstance(found, tuple) or len(found) != 5:
            raise TypeError(
                f"step returned {found!r:.80}, not a tuple (observation, reward, terminated, truncated, info)"
            )
        observation, reward, terminated, truncated, _ = found
        over = bool(terminated) or bool(truncated)
        if over and hasattr(self._inner, "close"):
            self._inner.close()
        return _text("step", observation), reward, over


def is_gymnasium(found: Any) -> bool:
    """Whether a class has the methods of a Gymnasium environment, and not those of ours."""
    return inspect.isclass(found) and not hasattr(found, "start") and hasattr(found, "reset")


def gymnasium_world(make: Any) -> type[GymnasiumWorld]:
    """The class of environments around those that `make()` gives."""
    return type("Gymnasium", (GymnasiumWorld,), {"make": make})


def _text(method: str, observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(
            f"{method} gave the observation {observation!r:.80}, which is no text; a gymnasium.Wrapper of "
            "your own can put it into words"
        )
    return observation
