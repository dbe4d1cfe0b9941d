"""Answers in a terminal, as they grow: in columns where there is room, else one under the other."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from refine_rl.report.safe import shown

WIDE = 100
"""Columns from which two answers stand beside one another."""
_A_SECOND = 12  # times that the picture is drawn


class Beside:
    """The answers of `names` on a terminal; inside `with`, `tell` says what stands of one. Where standard
    output is no terminal, nothing is drawn."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._said = dict.fromkeys(self._names, "")
        self._columns = len(self._names) > 1 and console.width >= WIDE
        self._live = Live(
            console=console, get_renderable=self._drawn, refresh_per_second=_A_SECOND, auto_refresh=True
        )

    def tell(self, name: str, text: str) -> None:
        self._said[name] = text

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._live.stop()

    def _drawn(self) -> RenderableType:
        texts = [Text(shown(self._said[name]), overflow="fold") for name in self._names]
        heads = [Text(name, style="bold" if name == "tuned" else "dim") for name in self._names]
        if not self._columns:
            return Group(*(self._under(h, t) for h, t in zip(heads, texts, strict=True)))
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
        for head in heads:
            table.add_column(head, ratio=1, overflow="fold")
        table.add_row(*texts)
        return table

    def _under(self, head: Text, text: Text) -> RenderableType:
        """An answer beside its name, as it stands where it is written to a file."""
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=6)
        grid.add_column(overflow="fold")
        grid.add_row(Text.assemble(head, ":"), text)
        return grid
