"""Student's t distribution, for whole degrees of freedom, without a statistics library."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

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
