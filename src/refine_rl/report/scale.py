"""Axes: where values lie on them, and the round numbers that stand beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Mark = tuple[float, str]
"""A place on an axis in percent, and what is written there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """An axis from `low` to `high`, which are not the same."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, about: int, *, whole: bool = False) -> tuple[Mark, ...]:
        """Round numbers on the axis, about so many, with their places in percent.

        >>> Scale(low=0.0, high=1.0).ticks(4)
        ((0.0, '0'), (25.0, '0.25'), (50.0, '0.5'), (75.0, '0.75'), (100.0, '1'))
        >>> [text for _, text in Scale(low=1, high=7).ticks(5, whole=True)]
        ['1', '2', '3', '4', '5', '6', '7']
        """
        step = _round_step((self.high - self.low) / about, whole)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        found = [n * step for n in range(first, last + 1)]
        return tuple((round(100 * self.at(v), 2), _tick(v, step)) for v in found)


def _round_step(least: float, whole: bool) -> float:
    """The round number that is nearest to `least` from above or below."""
    power = 10.0 ** math.floor(math.log10(least))
    step = min((n * power for n in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / least)))
    return max(1, round(step)) if whole else step


def _tick(value: float, step: float) -> str:
    if value and (abs(value) >= 1e5 or abs(step) < 1e-4):
        return f"{value:.1e}".replace("e-0", "e−").replace("e-", "e−").replace("e+0", "e").replace("-", "−")
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    places += not math.isclose(step * 10**places, round(step * 10**places))
    text = f"{value:.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−") if text != "-0" else "0"


def along(steps: Sequence[float]) -> Scale:
    """The axis of the steps; one alone stands in its middle."""
    low, high = min(steps), max(steps)
    return Scale(low=low, high=high) if high > low else Scale(low=low - 1, high=high + 1)


def upright(values: Sequence[float], *, unit: bool = False, floor: float | None = None) -> Scale:
    """The axis of the values: 0 to 1 where that is what they are, else a little more than they need."""
    low, high = min(values), max(values)
    if unit or (low >= 0 and 0.5 < high <= 1):
        return Scale(low=0.0, high=1.0)
    if floor is not None:
        low = min(low, floor)
    if high <= low:
        room = abs(low) / 2 or 0.5
        return Scale(low=low - room, high=high + room)
    room = 0.06 * (high - low)
    return Scale(low=low if floor == low else low - room, high=high + room)
