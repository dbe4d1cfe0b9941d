"""What foreign code gave back: numbers of all kinds, and how a value is shown to a person."""

from __future__ import annotations

import reprlib
from typing import Any

from refine_rl.types import LARGEST, one_line

_LONGEST = 80

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _LONGEST
_short.maxlong = 40


def number(answer: Any) -> float | None:
    """A finite float, or None where `answer` is no number, too large a one, or an array of several."""
    if isinstance(answer, str | bytes | bytearray) or getattr(answer, "ndim", 0) != 0:
        return None
    if hasattr(answer, "detach"):  # a tensor that has a gradient warns when it is read
        answer = answer.detach()
    try:
        value = float(answer)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return value if abs(value) <= LARGEST else None  # not for NaN either


def truth(answer: Any) -> bool | None:
    """A bool, also numpy's; None for anything else.

    >>> truth(True), truth(1)
    (True, None)
    """
    if isinstance(answer, bool):
        return answer
    kind = str(getattr(answer, "dtype", ""))
    return bool(answer) if kind.endswith("bool") and getattr(answer, "ndim", 1) == 0 else None


def show(answer: Any) -> str:
    """`repr`, short, of anything, on one line."""
    try:
        text = _short.repr(answer)
    except Exception as error:
        return f"a {type(answer).__name__} (its repr raises {type(error).__name__})"
    return one_line(text, _LONGEST)
