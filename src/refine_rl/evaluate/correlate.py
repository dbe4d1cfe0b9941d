"""Correlation within groups: what goes with what among answers to the same prompt.

Prompts that are easy have high rewards and, perhaps, short answers; such a difference between prompts says
nothing about what is paid for. So each value is taken as its distance from its group's mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Pairs = Sequence[tuple[float, float]]
"""Two values of each answer of a group."""


def within(groups: Sequence[Pairs]) -> float | None:
    """Pearson's correlation of the distances from the groups' means, in [-1, 1]; None where one of the two
    does not vary within any group.

    >>> within([[(0.0, 10.0), (1.0, 12.0)], [(5.0, 3.0), (6.0, 4.0)]])
    0.9486832980505138
    >>> within([[(0.0, 1.0), (0.0, 2.0)]]) is None
    True
    """
    distances = [pair for group in groups if group for pair in _distances(group)]
    xx = math.fsum(x * x for x, _ in distances)
    yy = math.fsum(y * y for _, y in distances)
    if xx < _NOTHING or yy < _NOTHING:
        return None
    both = math.fsum(x * y for x, y in distances) / math.sqrt(xx * yy)
    return max(-1.0, min(1.0, both))


_NOTHING = 1e-18  # a sum of squares that is rounding


def _distances(group: Pairs) -> list[tuple[float, float]]:
    n = len(group)
    x, y = (math.fsum(values) / n for values in zip(*group, strict=True))
    return [(a - x, b - y) for a, b in group]
