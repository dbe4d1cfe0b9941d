"""Student's t distribution and one-sided tests with it, for whole degrees of freedom, without a statistics
library. Welch's degrees of freedom are rounded down, which makes a test more careful.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, variance

_MANY = 300  # degrees of freedom from which a series in their inverse is as good
_WIDEST = 1e6  # beyond it lies less than one in a million, even with one degree of freedom


def within(t: float, freedom: int) -> float:
    """P(|T| <= t) for t >= 0 and `freedom` >= 1 degrees of freedom: the finite sums of Abramowitz and Stegun,
    26.7.3 and 26.7.4.

    >>> round(within(1.0, 1), 6), round(within(2.0, 2), 6), round(within(2.262157, 9), 6)
    (0.5, 0.816497, 0.95)
    """
    if freedom < 1:
        raise ValueError(f"degrees of freedom: {freedom}, which is less than 1")
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= (k + 1) / (k + 2) * cosine * cosine
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total


@lru_cache(maxsize=256)
def quantile(share: float, freedom: int) -> float:
    """Below which value `share` of the distribution lies, 0.5 <= share < 1. For many degrees of freedom by
    the first terms of Abramowitz and Stegun, 26.7.5.

    >>> round(quantile(0.975, 4), 4), round(quantile(0.8, 63), 4), quantile(0.5, 7)
    (2.7764, 0.8474, 0.0)
    """
    if not 0.5 <= share < 1:
        raise ValueError(f"a share of {share} is not within 0.5 and 1")
    inside, low, high = 2 * share - 1, 0.0, 1.0
    if inside == 0:
        return 0.0
    if freedom >= _MANY:
        z = NormalDist().inv_cdf(share)
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        return z + first / freedom + second / freedom**2
    while within(high, freedom) < inside and high < _WIDEST:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < inside else (low, middle)
    return (low + high) / 2


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


def slope_above_zero(x: Sequence[float], y: Sequence[float]) -> float:
    """The one-sided p-value that the slope of y = slope x, fitted by least squares, is above 0; 1 where that
    cannot be said.

    >>> round(slope_above_zero([1.0, -1.0, 2.0], [1.0, 0.0, 2.0]), 6)
    0.043565
    >>> slope_above_zero([0.0, 0.0], [1.0, 2.0])
    1.0
    """
    squares = math.fsum(a * a for a in x)
    if len(x) < 2 or squares == 0:
        return 1.0
    slope = math.fsum(a * b for a, b in zip(x, y, strict=True)) / squares
    left = math.fsum((b - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    return _tail(slope, left / (len(x) - 1) / squares, len(x) - 1)


def _tail(mean: float, squared_error: float, freedom: int) -> float:
    """The share of Student's distribution above this mean, in units of its standard error."""
    if math.sqrt(squared_error) < 1e-12 * max(1.0, abs(mean)):
        return 0.0 if mean > 1e-12 else 1.0
    t = mean / math.sqrt(squared_error)
    tail = (1.0 - within(abs(t), freedom)) / 2
    return tail if t > 0 else 1.0 - tail
