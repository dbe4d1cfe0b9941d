"""A terminal: what a person sees after some bytes, with the few signs that a line at the bottom needs."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

_PIECE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


@dataclass
class Screen:
    """Rows of at most `columns` signs. `drawn` are the lines that were drawn over, in their order; `unknown`
    what it does not understand.

    >>> screen = Screen(columns=10)
    >>> screen.feed("one\\r\\n50 %\\r\\x1b[2K100 %\\r\\x1b[2Ktwo\\r\\n")
    >>> screen.rows, screen.drawn
    (['one', 'two', ''], ['50 %', '100 %'])
    """

    columns: int
    rows: list[str] = field(default_factory=lambda: [""])
    column: int = 0
    drawn: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def feed(self, text: str) -> None:
        for numbers, letter, end, words in (piece.groups() for piece in _PIECE.finditer(text)):
            if letter == "K" and numbers == "2":
                self.drawn += filter(None, [self.rows[-1]])
                self.rows[-1] = ""
            elif letter and letter != "m":
                self.unknown.append(f"{numbers}{letter}")
            elif end == "\r":
                self.column = 0
            elif end == "\n":
                self.rows.append("")
            else:
                self._put(words or "")

    def _put(self, words: str) -> None:
        for sign in words:
            if self.column == self.columns:
                self.rows.append("")
                self.column = 0
            row = self.rows[-1].ljust(self.column)
            self.rows[-1] = row[: self.column] + sign + row[self.column + 1 :]
            self.column += 1

    @property
    def text(self) -> str:
        return "\n".join(self.rows)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[TextIO, list[str]]]:
    """A real terminal to write to, and what was written, whole once the block is left."""
    ours, theirs = os.openpty()
    seen: list[str] = []

    def read() -> None:
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0, closefd=False) as stream:
            while data := stream.read(4096):
                seen.append(data.decode("utf-8", "replace"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123
        yield stream, seen
        stream.flush()
    reader.join(timeout=60)
    os.close(ours)


def until(there: Callable[[], bool]) -> None:
    """Waits for what another thread does."""
    deadline = time.monotonic() + 250
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)
