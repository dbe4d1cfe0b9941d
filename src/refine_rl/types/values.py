"""Numbers and texts that everybody compares and shows alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

RESIDUE = 1e-12
"""Two rewards that differ by less than this share of themselves (or of 1) were meant to be the same: what
differs is what rounding left of different ways to the same number."""

LARGEST = 1e300
"""Larger rewards cannot be averaged."""


def same_value(values: Iterable[float]) -> bool:
    """Whether all values are the same, apart from what rounding leaves; so is a value alone.

    >>> same_value([0.3, 0.1 + 0.2]), same_value([0.3, 0.3001])
    (True, False)
    """
    found = list(values)
    low, high = min(found), max(found)
    return low == high or high - low <= RESIDUE * max(1.0, abs(low), abs(high))


def reaches(value: float, threshold: float) -> bool:
    """Whether `value` is at least `threshold`, apart from what rounding leaves.

    >>> reaches(0.1 + 0.1 + 0.1, 0.3), reaches(1 - 1e-16, 1.0), reaches(0.9999, 1.0)
    (True, True, False)
    """
    return value >= threshold or same_value([value, threshold])


def settled(value: float) -> float:
    """The value, and 0 where it is what rounding leaves of it.

    >>> settled(-1.4e-17), settled(-0.0), settled(1e-9)
    (0.0, 0.0, 1e-09)
    """
    return value if abs(value) > RESIDUE else 0.0


def decimals(value: float, sign: str = "") -> str:
    """A reward for people: three decimals, a fourth where they would all be 0, or three digits where those
    say nothing. `sign` "+" shows it; a 0 is never negative.

    >>> decimals(0.25), decimals(0.25, "+"), decimals(0.0003, "+"), decimals(-1.25e200)
    ('0.250', '+0.250', '+0.0003', '-1.25e+200')
    >>> decimals(-1.4e-17), decimals(-1.4e-17, "+"), decimals(-0.00004), decimals(-0.0)
    ('0.000', '+0.000', '0.000', '0.000')
    """
    if 0.00005 <= abs(value) < 0.0005:
        return format(value, f"{sign}.4f")
    return format(value, f"{sign}z.3f" if abs(value) < 1e6 else f"{sign}.3g")


def count_of(number: int, thing: str) -> str:
    """
    >>> count_of(1, "prompt"), count_of(2, "prompt")
    ('1 prompt', '2 prompts')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def one_line(text: str, most: int) -> str:
    """The text on one line, cut at `most` characters.

    >>> one_line("one\\n two three", 9)
    'one two …'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def mean_of(values: Sequence[float]) -> float:
    """The mean of at least one value; also where the sum is too large for a number.

    >>> mean_of([1.5e308, 1.5e308])
    1.5e+308
    """
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(v / len(values) for v in values)
