"""What foreign code raised, and where, for a person who wrote it."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path

FAILURES = (Exception, SystemExit, KeyboardInterrupt)
"""What foreign code may raise and we turn into a missing score. A SystemExit or KeyboardInterrupt
that is raised inside a task would otherwise end the whole event loop."""

_PACKAGE = Path(__file__).parents[1]
_CALLER = _PACKAGE / "foreign" / "seats.py"
_FIRST_FRAMES, _LAST_FRAMES = 2, 4


def describe_failure(error: BaseException) -> str:
    """The exception, and what `foreign_frames` leaves of its traceback."""
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"{what}\n{foreign_frames(traceback.extract_tb(error.__traceback__))}".rstrip()


def foreign_frames(frames: Iterable[traceback.FrameSummary]) -> str:
    """The user's frames of a stack as lines: the outermost two and the last four. Left out is what stands
    before the first of them: threads, this package, the import machinery."""
    given = list(frames)
    called = max((i for i, frame in enumerate(given) if Path(frame.filename) == _CALLER), default=0)
    theirs = (i for i, frame in enumerate(given) if i >= called and not _is_ours(frame.filename))
    given = given[next(theirs, 0) :]
    while len(given) > 1 and _is_ours(given[-1].filename):  # where we refused what it did
        del given[-1]
    if len(given) == 1 and Path(given[0].filename) == _CALLER:  # we refused what it gave back
        return ""
    lines = traceback.format_list(given)
    if len(lines) > _FIRST_FRAMES + _LAST_FRAMES:
        left_out = len(lines) - _FIRST_FRAMES - _LAST_FRAMES
        lines = [*lines[:_FIRST_FRAMES], f"  ... {left_out} frames ...\n", *lines[-_LAST_FRAMES:]]
    return "".join(lines).rstrip()


def _is_ours(filename: str) -> bool:
    """A recipe is a task like any other: its files are a user's."""
    path = Path(filename)
    own = path.is_relative_to(_PACKAGE) and not path.is_relative_to(_PACKAGE / "recipes")
    return own or filename.startswith("<frozen importlib")
