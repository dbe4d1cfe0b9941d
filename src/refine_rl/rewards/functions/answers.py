"""What a reward function may give back, read into Scores.

One completion: a number (a float, an int, a bool, a numpy or torch scalar, a Fraction, a Decimal) or a Score
whose numbers are such. The list form: as many of these as there are completions, in an order, where None says
that the function does not apply to that completion. Anything else is a missing score that says what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, MappingView, Set
from itertools import islice
from typing import Any, get_args

from refine_rl.foreign.values import number, show
from refine_rl.types import LARGEST, Score, Status, count_of

NOT_APPLICABLE = Score.missing("does not apply (returned None)")
"""Says that a component is to be left out of its member, where others are there (`left_out`)."""


def read_one(answer: Any) -> Score:
    """The Score that an answer to one completion stands for.

    >>> read_one(True).value, read_one("0.5").explanation
    (1.0, "returned '0.5', not a finite number")
    """
    if isinstance(answer, Score):
        return _checked(answer)
    value = number(answer)
    if value is None:
        return Score.missing(f"returned {show(answer)}, {_what_is_wrong(answer)}")
    return Score(value=value)


def read_list(answer: Any, count: int) -> list[Score]:
    """The Scores that an answer of the list form stands for; at most `count` + 1 entries are read.

    >>> [score.value for score in read_list(iter([0.5, None]), 2)]
    [0.5, None]
    >>> read_list({0.5, 1.0}, 2)[0].explanation
    'returned {0.5, 1.0}, which has no order: give a list of 2 numbers'
    """
    wanted = f"give a list of {count_of(count, 'number')}"
    if isinstance(answer, Set | Mapping | MappingView):
        return [Score.missing(f"returned {show(answer)}, which has no order: {wanted}")] * count
    if isinstance(answer, str | bytes | bytearray | Score) or not _can_be_read(answer):
        return [Score.missing(f"returned {show(answer)}, not a list of numbers")] * count
    entries = list(islice(iter(answer), count + 1))
    if len(entries) != count:
        size = len(answer) if hasattr(answer, "__len__") else len(entries)
        found = f"more than {count}" if size == count + 1 and not hasattr(answer, "__len__") else f"{size}"
        return [Score.missing(f"returned {found} numbers for {count} completions")] * count
    return [NOT_APPLICABLE if entry is None else read_one(entry) for entry in entries]


def left_out(score: Score) -> bool:
    """Whether the score says that its component does not apply."""
    return score.value is None and score.explanation == NOT_APPLICABLE.explanation


def _what_is_wrong(answer: Any) -> str:
    huge = isinstance(answer, int | float) and LARGEST < abs(answer) < float("inf")
    return "which is too large to be averaged" if huge else "not a finite number"


def _can_be_read(answer: Any) -> bool:
    try:
        iter(answer)
    except Exception:
        return False
    return True


def _checked(score: Score) -> Score:
    """A user's Score with plain numbers, or a missing one that says which of it is none."""
    if score.status not in get_args(Status):
        return Score.missing(f"returned a Score whose status is {show(score.status)}")
    value = None if score.value is None else number(score.value)
    if value is None and score.value is not None:
        what = _what_is_wrong(score.value)
        return Score.missing(f"returned a Score whose value is {show(score.value)}, {what}")
    agreement = None if score.agreement is None else number(score.agreement)
    return Score(value=value, status=score.status, explanation=str(score.explanation), agreement=agreement)
