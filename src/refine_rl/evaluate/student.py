"""One-sided tests with Student's t, without another library.

The distribution's series for whole degrees of freedom is that of Abramowitz and Stegun (Handbook of
Mathematical Functions), 26.7.3 and 26.7.4. Welch's degrees of freedom are rounded down, which makes a test
more careful.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance


def above_zero(values: Sequence[float]) -> float:
    """The one-sided p-value that the mean of `values` is above 0; 1 for fewer than two.

    >>> round(above_zero([1.0, 2.0, 3.0]), 6), above_zero([1.0, 1.0]), above_zero([-1.0, -1.0])
    (0.03709, 0.0, 1.0)
    """
    if len(values) < 2:
        return 1.0
    return _tail(fmean(values), variance(values) / len(values), len(values) - 1)


def rose(before: Sequence[float], after: Sequence[float]) -> float:
    """The one-sided p-value that the mean of `after` is above that of `before`, by Welch's test; 1 for fewer
    than two of either.

    >>> rose([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), rose([1.0, 1.0], [2.0, 2.0])
    (0.5, 0.0)
    """
    if min(len(before), len(after)) < 2:
        return 1.0
    parts = [variance(some) / len(some) for some in (before, after)]
    freedom = 1.0
    if sum(parts) > 0:
        shares = zip(parts, (before, after), strict=True)
        freedom = sum(parts) ** 2 / math.fsum(part**2 / (len(some) - 1) for part, some in shares)
    return _tail(fmean(after) - fmean(before), sum(parts), max(1, math.floor(freedom + 1e-9)))


def _tail(mean: float, squared_error: float, freedom: int) -> float:
    """The share of Student's distribution above this mean, in units of its standard error."""
    if math.sqrt(squared_error) < 1e-12 * max(1.0, abs(mean)):
        return 0.0 if mean > 1e-12 else 1.0
    t = mean / math.sqrt(squared_error)
    tail = (1.0 - _within(abs(t), freedom)) / 2
    return tail if t > 0 else 1.0 - tail


def _within(t: float, freedom: int) -> float:
    """The share of Student's distribution between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = total = cosine if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cosine * cosine * ((k - 1) / k)
        total += term
    if freedom % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))
