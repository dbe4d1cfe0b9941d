"""An interrupt of long work: once to stop at the next safe place, twice to stop at once."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from refine_rl.errors import Interrupted
from refine_rl.progress import Pause
from refine_rl.report.bottom import say_at_once


@contextlib.contextmanager
def interruptible(at_once: Callable[[], BaseException], again: str) -> Iterator[Pause]:
    """Long work: gives the Pause that raises Interrupted after the first SIGINT; the second raises what
    `at_once` makes, from wherever the program stands. `again` is what a person does for it ("Ctrl-C again").
    To be entered in the main thread; what answered the signal before does so again behind it."""
    asked = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise at_once()
        asked = True
        _say(f"Stopping at the next safe place ({again}: at once) ...\n")

    def pause() -> None:
        if asked:
            raise Interrupted("Interrupted.")

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)


def _say(line: str) -> None:
    if isinstance(sys.stderr, io.TextIOWrapper) or hasattr(sys.stderr, "above"):
        say_at_once(line)  # write() may be what was interrupted, and is not entered twice
    else:
        sys.stderr.write(f"\n{line}")  # a notebook's
