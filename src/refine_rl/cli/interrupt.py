"""Ctrl-C: once to stop at the next safe place, twice to stop at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from refine_rl.cli.streams import results_apart
from refine_rl.errors import Interrupted
from refine_rl.progress import Pause

_STOPPING = "Stopping at the next safe place (Ctrl-C again: at once) ...\n"


class StopNow(BaseException):
    """Leave now, from wherever the program stands.

    No Exception, so that no library swallows it; and no Interrupted, because the weights may be half
    moved: nothing more is saved, and what is on the disk already leads to the same place.
    """


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """The handler while nothing is at stake."""
    raise StopNow("Interrupted.")


@contextlib.contextmanager
def interruptible() -> Iterator[Pause]:
    """Long work: gives the Pause that raises Interrupted after the first Ctrl-C; the second raises StopNow.
    What foreign code prints meanwhile does not land among the results."""
    from refine_rl.report.bottom import say_at_once  # late: rich

    asked = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise StopNow("Stopped at once.")
        asked = True
        say_at_once(_STOPPING)  # print() may be what was interrupted, and cannot be entered twice

    def pause() -> None:
        if asked:
            raise Interrupted("Interrupted.")

    before = signal.signal(signal.SIGINT, handler)
    try:
        with results_apart():
            yield pause
    finally:
        signal.signal(signal.SIGINT, before)
