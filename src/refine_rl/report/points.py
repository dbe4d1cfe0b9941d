"""Lines of numbers against the step: their gaps, fewer points of a long one, and what is said of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refine_rl.report.data import number

SMOOTH_FROM = 24  # from so many points on, a moving mean is drawn over the single steps
MOST_POINTS = 400  # longer runs are drawn as means of neighbouring steps

Line = tuple[Sequence[float], Sequence[float | None]]
"""Steps and values, as many of each; None is a gap."""


def thin(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """At most `most` points, each the mean of as many neighbouring steps; NaN where all are NaN.

    >>> thin([1, 2, 3, 4], [1.0, 3.0, 5.0, float("nan")], most=2)
    ([1.5, 3.5], [2.0, 5.0])
    """
    width = max(1, math.ceil(len(steps) / most))
    starts = range(0, len(steps), width)
    return (
        [mean(steps[i : i + width]) for i in starts],
        [mean(values[i : i + width]) for i in starts],
    )


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the finite values from `width` before to `width` after; NaN stays NaN.

    Towards the ends it is over as many before as after, but two at least: else a line that falls steeply at
    first would begin too low.
    """
    found = []
    for i, value in enumerate(values):
        reach = min(width, max(2, min(i, len(values) - 1 - i)))
        around = values[max(0, i - reach) : i + reach + 1]
        found.append(mean(around) if math.isfinite(value) else math.nan)
    return found


def mean(values: Sequence[float]) -> float:
    """The mean of the finite ones; NaN where there are none."""
    finite = [x for x in values if math.isfinite(x)]
    return sum(finite) / len(finite) if finite else math.nan


def with_gaps(line: Line) -> tuple[list[float], list[float]]:
    """A line with NaN for None."""
    steps, values = line
    return [float(s) for s in steps], [math.nan if v is None else float(v) for v in values]


def summary(steps: Sequence[float], values: Sequence[float | None]) -> str:
    """The first and the last of a line's values, the lowest and the highest, in words."""
    points = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None and math.isfinite(v)]
    (first_step, first), (last_step, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{number(first)} at step {first_step:g}"
    lowest, highest = min(v for _, v in points), max(v for _, v in points)
    return (
        f"{number(first)} at step {first_step:g} to {number(last)} at step {last_step:g}, "
        f"lowest {number(lowest)}, highest {number(highest)}"
    )
