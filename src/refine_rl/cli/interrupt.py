"""Ctrl-C: once to stop at the next safe place, twice to stop at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import FrameType

from refine_rl.cli.streams import results_apart
from refine_rl.progress import Pause


class StopNow(BaseException):
    """Leave now, from wherever the program stands.

    No Exception, so that no library swallows it; and no Interrupted, because the weights may be half
    moved: nothing more is saved, and what is on the disk already leads to the same place.
    """


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """The handler while nothing is at stake."""
    raise StopNow("Interrupted.")


def until_stopped() -> None:
    """Raises StopNow at Ctrl-C. In short waits: a signal that comes just before a wait without an end is
    noticed after it alone."""
    while True:
        time.sleep(0.5)


@contextlib.contextmanager
def interruptible() -> Iterator[Pause]:
    """Long work: gives the Pause that raises Interrupted after the first Ctrl-C; the second raises StopNow.
    What foreign code prints meanwhile does not land among the results."""
    from refine_rl.report import stopping  # late: rich

    with (
        stopping.interruptible(lambda: StopNow("Stopped at once."), "Ctrl-C again") as pause,
        results_apart(),
    ):
        yield pause
