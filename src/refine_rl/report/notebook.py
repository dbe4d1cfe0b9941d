"""A run in a notebook: one block below the cell, which is shown anew as it goes on."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from html import escape
from typing import Any, Self

from rich.text import Text

from refine_rl.report.follow import Follower
from refine_rl.report.lines import clock_of
from refine_rl.report.moment import line_of
from refine_rl.report.safe import shown
from refine_rl.run import RunFolder

LINES = 12
"""The newest lines that are shown; warnings stay, all of them."""
_BETWEEN = 0.5  # seconds between two drawings
_STYLE = (
    "font-family: var(--jp-code-font-family, ui-monospace, monospace); font-size: 13px; line-height: 1.45; "
    "white-space: pre-wrap"
)
_LOUD = "border-left: 4px solid #d97706; padding-left: 8px"  # on light pages and dark ones

Show = Callable[[dict[str, str]], None]
"""Shows a block by its forms (MIME types): the first time below the cell, from then on in its place."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def below_the_cell() -> Show:
    """A block of its own below the cell that runs now."""
    from IPython import display

    handle: Any = None

    def show(forms: dict[str, str]) -> None:
        nonlocal handle
        if handle is None:
            handle = display.display(forms, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            handle.update(forms, raw=True)

    return show


class Block(Follower):
    """An Observer for people at a notebook; shown anew at most twice a second. In a `with` block it ends with
    how that ended."""

    def __init__(
        self,
        run: RunFolder | None = None,
        *,
        show: Show | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(run, clock=clock)
        self._show = show or below_the_cell()
        self._head = ""
        self._newest: deque[str] = deque(maxlen=LINES)
        self._warnings: list[str] = []
        self._shown, self._ended = float("-inf"), ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if not self._newest and not self._warnings:
            return  # nothing was told
        how = "done" if kind is None else f"stopped: {kind.__name__}"
        self._ended = f"{clock_of(self.seconds)}  {how}"
        self._draw()

    def head(self, text: str) -> None:
        self._head = shown(text)

    def _say(self, text: Text) -> None:
        self._newest.append(text.plain)
        self._changed()

    def _warn(self, text: Text) -> None:
        self._warnings.append(text.plain)
        self._draw()

    def _changed(self) -> None:
        if self.seconds - self._shown >= _BETWEEN:
            self._draw()

    def _draw(self) -> None:
        self._shown = self.seconds
        try:
            self._show(self._forms())
        except Exception:  # nobody sees it any more, and the run is worth more
            self._show = lambda forms: None

    def _forms(self) -> dict[str, str]:
        """The block as HTML, and as text for what shows none."""
        head = [self._head] if self._head and self._something_made() else []
        lines = "\n".join([*head, *self._newest])
        bar = self._ended or line_of(self.now, self.seconds, self.width).plain
        warnings = "\n".join(self._warnings)
        drawn = f'<div style="{_STYLE}">{escape(lines)}</div>{self._bar()}'
        if warnings:
            drawn += f'<div style="{_STYLE}; {_LOUD}">{escape(warnings)}</div>'
        return {"text/html": drawn, "text/plain": "\n".join(filter(None, (lines, bar, warnings)))}

    def _bar(self) -> str:
        """How far it is."""
        if self._ended:
            return f'<div style="{_STYLE}"><b>{escape(self._ended)}</b></div>'
        now, share = self.now, self.now.share
        words = [f"{c.what} {c.done}/{c.of}" for c in (now.steps, now.count) if c is not None]
        said = ", ".join(filter(None, (*(words or [now.stage]), now.left(self.seconds))))
        value = "" if share is None else f' value="{share:.4f}"'
        return (
            f'<div style="{_STYLE}; font-weight: 600; margin: 4px 0">'
            f'<progress{value} aria-label="{escape(said)}" style="width: 16em; vertical-align: middle">'
            "</progress>  "
            f"{escape(clock_of(self.seconds).strip())}  {escape(said)}</div>"
        )
