"""A line at the bottom of the terminal that is drawn again and again, above which everything else scrolls."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

REFRESH = 0.25
"""Seconds between two drawings."""
_CLEAR = "\r\x1b[2K"  # to the line's beginning, and all of it gone


def say_at_once(text: str) -> None:
    """Writes a line to standard error from wherever the program stands, as a signal's handler must: past all
    buffers. On a terminal it takes the place of its last line, which is drawn again below."""
    moves = os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    os.write(2, f"{_CLEAR if moves else chr(10)}{text}".encode())


class Bottom:
    """A context manager. Inside, `line(width)` is drawn in the last line of the terminal that `stream` is;
    what `console` prints, and what anybody writes to standard output or error, goes above it. A line that
    somebody else has begun and not ended (another library's progress) is left alone until it is ended.

    Nothing of the terminal's state is changed, so that there is nothing to put back, however the process
    ends; leaving takes the line away.
    """

    def __init__(self, stream: TextIO, console: Console, line: Callable[[int], Text]) -> None:
        self._stream, self._console, self._line = stream, console, line
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._drawn, self._foreign = "", False  # what stands there now; somebody's unfinished line does
        self._thread = threading.Thread(target=self._refresh, name="progress", daemon=True)
        self._redirected = contextlib.ExitStack()

    def __enter__(self) -> Bottom:
        if sys.stderr.isatty():
            self._redirected.enter_context(contextlib.redirect_stderr(self._through(sys.stderr)))
        if sys.stdout.isatty():
            self._redirected.enter_context(contextlib.redirect_stdout(self._through(sys.stdout)))
        with contextlib.suppress(Exception):
            self.draw()  # at once: what comes next may take the interpreter for a while
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._redirected.close()
        self._thread.join(timeout=2)
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._clear()
            self._stream.flush()

    def write(self, text: str, to: TextIO) -> int:
        """Writes text to a stream of this terminal, above the line."""
        with self._lock:
            self._clear()
            written = to.write(text)
            to.flush()
            self._foreign = not text.endswith("\n")
            with contextlib.suppress(Exception):  # not the writer's
                self._draw()
        return written

    def show(self, text: Text) -> None:
        """Prints a line of our own; one that somebody else has begun is ended first."""
        with self._lock:
            self._clear()
            if self._foreign:
                self._stream.write("\n")
                self._foreign = False
            self._console.print(text)
            self._draw()

    def draw(self) -> None:
        """Draws the line as it is now."""
        with self._lock:
            self._draw()

    # -- inside -------------------------------------------------------------------------------

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH):
            try:
                self.draw()
            except Exception:  # the terminal is gone: nobody sees it, and the run is worth more
                return

    def _draw(self) -> None:
        if self._foreign or self._over.is_set():
            return
        width = self._console.width - 1  # a full line would push the cursor into the next
        with self._console.capture() as drawn:
            self._console.print(self._line(width), end="")
        if drawn.get() != self._drawn:
            self._stream.write(_CLEAR + drawn.get())
            self._stream.flush()
            self._drawn = drawn.get()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()  # before another stream of the same terminal writes there
            self._drawn = ""

    def _through(self, stream: TextIO) -> Any:
        """The stream, for everybody else: what is written to it goes above the line."""
        return _Through(stream, self)


class _Through:
    """A stream whose text goes `above` a line; all else is the stream's."""

    def __init__(self, stream: TextIO, bottom: Bottom) -> None:
        self._stream, self.above = stream, bottom

    def write(self, text: str) -> int:
        return self.above.write(text, self._stream) if text else 0

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
