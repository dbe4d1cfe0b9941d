"""The penalty on long completions, added to the reward after its components are combined."""

from __future__ import annotations

from refine_rl.errors import SettingsError
from refine_rl.rewards.text.words import split_words
from refine_rl.settings import OverlongSettings
from refine_rl.types import Trajectory

_LINEAR_FLOOR = -10.0


def dapo_penalty(n: int, limit: int, buffer: int) -> float:
    """0 up to limit - buffer, then (limit - buffer - n) / buffer, and -1 from `limit` on.

    DAPO, arXiv 2503.14476, equation 13.
    """
    return max(-1.0, min(0.0, (limit - buffer - n) / buffer))


def linear_penalty(n: int, limit: int) -> float:
    """0 up to the limit, then max((limit - n) / limit, -10)."""
    return max(_LINEAR_FLOOR, min(0.0, (limit - n) / limit))


class Overlong:
    """The penalty with its settings filled in. Raises SettingsError where it could never act."""

    def __init__(self, settings: OverlongSettings, max_tokens: int) -> None:
        self._kind = settings.kind
        self._unit = settings.unit
        self._limit = settings.limit if settings.limit is not None else max_tokens
        self._buffer = settings.buffer if settings.buffer is not None else max(1, self._limit // 5)
        if self._buffer > self._limit:
            raise SettingsError(
                f"reward.overlong: `buffer` ({self._buffer}) exceeds the limit ({self._limit})"
            )
        free = self._limit - (self._buffer if self._kind == "dapo" else 0)
        if self._unit == "tokens" and free >= max_tokens:
            raise SettingsError(
                f"reward.overlong never acts: it starts above {free} tokens, and an answer has at most "
                f"{max_tokens}; give a smaller `limit`"
            )

    def penalty(self, trajectory: Trajectory) -> float:
        """The raw penalty, at most 0, before its weight."""
        n = self._length(trajectory)
        if self._kind == "dapo":
            return dapo_penalty(n, self._limit, self._buffer)
        return linear_penalty(n, self._limit)

    def _length(self, trajectory: Trajectory) -> int:
        if self._unit == "tokens":
            return trajectory.completion_tokens
        text = trajectory.said
        return len(split_words(text)) if self._unit == "words" else len(text)
