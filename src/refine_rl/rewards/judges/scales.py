"""Scores as judges write them -> numbers in [0, 1].

Asked for a number between 0 and 1, a judge may write 0.8, "0.8", "8/10", "40 %", or grade the whole
reply out of 10 or out of 100. What is meant must be plain from the reply; where it is not, the reply
is sent back. A guess could turn a group's order around, or take the best grade for a middling one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from refine_rl.llm.structured import Unusable

SLACK = 0.05
"""A score this far outside [0, 1] is a slip of the pen, and clipped."""

_OF_FIVE = 5.0  # up to here grades may be out of five, with whatever they are compared

_ASKED = "Scores are numbers between 0 and 1, such as 0.35."
_NUMBER = r"[-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)"
_WRITTEN = re.compile(
    rf"({_NUMBER})\s*(?:(%|percent)|(?:/|out\s+of|of)\s*(\d+(?:[.,]\d+)?))?\.?", re.IGNORECASE
)


def unit_scores(columns: Sequence[Mapping[str, object]]) -> list[dict[str, float]]:
    """The scores of one reply in [0, 1]; a column is what compares: all answers by one criterion.

    Numbers that name their scale ("8/10", "40%") are taken at their word. The others share one scale:

    - all in [0, 1], or within SLACK of it: as they are, clipped;
    - all in [0, 10], the largest above 5, or all in [0, 100], the largest above 20: divided;
    - anything else raises Unusable: a fraction of 1 beside a 7, a negative number, scales that cannot be
      told (3, 4, 5 are the best grades of five or the middle of ten; "1/3" is a third, or the first of
      three), and columns that may be ranks, ties included (1, 2, 3 or 1, 1, 3 for three answers), where
      the smallest may be the best.

    >>> unit_scores([{"a": "8/10", "b": "40%", "c": 0.5}])
    [{'a': 0.8, 'b': 0.4, 'c': 0.5}]
    >>> unit_scores([{"a": 7, "b": 9}])
    [{'a': 0.7, 'b': 0.9}]
    """
    read = [{name: written_number(name, value) for name, value in column.items()} for column in columns]
    for column in read:
        _check_tops(column)
    plain = [number for column in read for number, top in column.values() if top is None]
    scale = _scale_of(plain, read)
    return [
        {name: min(1.0, max(0.0, number / (top or scale))) for name, (number, top) in column.items()}
        for column in read
    ]


def written_number(name: str, value: object) -> tuple[float, float | None]:
    """A number as it was written, and the top of the scale that stands beside it, if one does.

    Raises Unusable, naming `name`, for what is no finite number, and for "12/10".

    >>> written_number("a", "8 / 10"), written_number("a", 0.25)
    ((8.0, 10.0), (0.25, None))
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number, None
    found = _WRITTEN.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise Unusable(f"The score of {name} is {in_short(value)}, which is no number. {_ASKED}")
    number = _float(found[1])
    if found[2] or found[3]:
        top = 100.0 if found[2] else _float(found[3])
        if not (0 < top < math.inf and 0 <= number <= top):
            raise Unusable(
                f"The score of {name} is {in_short(value)}, which lies outside its scale. {_ASKED}"
            )
        return number, top
    if not math.isfinite(number):
        raise Unusable(f"The score of {name} is {in_short(value)}, which is no finite number. {_ASKED}")
    return number, None


def _scale_of(plain: Sequence[float], columns: Sequence[Mapping[str, tuple[float, float | None]]]) -> float:
    if all(-SLACK <= number <= 1 + SLACK for number in plain):
        return 1.0
    low, high = min(plain), max(plain)
    shown = ", ".join(f"{number:g}" for number in plain)
    if low < 0 or high > 100:
        wrong = low if low < -SLACK or high <= 100 else high
        raise Unusable(f"A score of {wrong:g} is not between 0 and 1. {_ASKED}")
    if any(0 < number < 1 for number in plain):
        raise Unusable(f"The scores {shown} are not on one scale. {_ASKED}")
    scale = 10.0 if high <= 10 else 100.0
    unclear = Unusable(f"It cannot be told which scale the scores {shown} are on. {_ASKED}")
    if high <= scale / 5:
        raise unclear
    for column in columns:
        _refuse_ranks([number for number, top in column.values() if top is None])
    if high <= _OF_FIVE:
        raise unclear
    return scale


def _check_tops(column: Mapping[str, tuple[float, float | None]]) -> None:
    """Raises Unusable for scales that stand beside their numbers and say too little."""
    for name, (number, top) in column.items():
        if top is not None and top != 1 and top < _OF_FIVE:
            raise Unusable(
                f"The score of {name} is {number:g} of {top:g}: it cannot be told whether that is a rank, a "
                f"share or a grade. {_ASKED}"
            )
    _refuse_ranks([number for number, top in column.values() if top == len(column)])


def _refuse_ranks(numbers: Sequence[float]) -> None:
    if len(numbers) > 1 and may_be_ranks(numbers):
        shown = ", ".join(f"{number:g}" for number in sorted(numbers))
        raise Unusable(f"The scores {shown} could be ranks, and ranks are not wanted. {_ASKED}")


def may_be_ranks(numbers: Sequence[float]) -> bool:
    """Whether the numbers are the places of as many answers, counted from 0 or 1, with ties in any of the
    usual ways: 1 2 2 4, 1 3 3 4, 1 2.5 2.5 4 or 1 2 2 3.

    >>> may_be_ranks([1, 1, 3]), may_be_ranks([1, 2.5, 2.5]), may_be_ranks([7, 8, 9])
    (True, True, False)
    """
    before = {number: sum(other < number for other in numbers) for number in numbers}
    equal = {number: sum(other == number for other in numbers) for number in numbers}
    dense = {number: place for place, number in enumerate(sorted(before))}
    ways = (
        before,
        {number: before[number] + equal[number] - 1 for number in before},
        {number: before[number] + (equal[number] - 1) / 2 for number in before},
        dense,
    )
    return any(all(number == first + way[number] for number in before) for way in ways for first in (0, 1))


def _float(text: str) -> float:
    return float(text.replace(",", "."))


def in_short(value: object) -> str:
    """What a judge wrote, in at most 60 signs."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
