"""Tables of numbers on a terminal of any width: no number is cut, no name is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from refine_rl.report.wrapping import wrap

_GAP = 2


@dataclass(kw_only=True)
class Columns:
    """A label a row, and numbers to the right of it.

    Where they do not fit beside each other the label gets a line of its own, above the numbers; where not
    even the numbers do, each stands behind its heading.
    """

    first: str
    headings: Sequence[str]
    rows: list[tuple[str, Sequence[str], str]] = field(default_factory=list)

    def add(self, label: str, cells: Sequence[str] = (), style: str = "") -> None:
        """A row; without cells a title for those that follow. `label` is plain text."""
        if cells and len(cells) != len(self.headings):
            raise ValueError("a row has a cell for each heading")
        self.rows.append((label, cells, style))

    def room(self, width: int) -> int:
        """The columns that are left for labels beside the numbers; negative where these alone do not fit."""
        return width - sum(_GAP + wide for wide in self._widths())

    def _widths(self) -> list[int]:
        return [
            max(cell_len(text) for text in (heading, *(cells[n] for _, cells, _ in self.rows if cells)))
            for n, heading in enumerate(self.headings)
        ]

    def lines(self, width: int) -> list[tuple[str, str]]:
        """The table in lines of at most `width` columns, each with its style."""
        widths, room = self._widths(), self.room(width)
        if room < 0:
            return self._stacked(width)
        labels = [self.first, *(label for label, cells, _ in self.rows if cells)]
        beside = [cell_len(label) for label in labels if cell_len(label) <= room]
        column = max(beside, default=0)

        def row(label: str, cells: Sequence[str], style: str) -> list[tuple[str, str]]:
            numbers = "".join(
                " " * (_GAP + wide - cell_len(cell)) + cell for cell, wide in zip(cells, widths, strict=True)
            )
            if cell_len(label) <= column:
                return [(label + " " * (column - cell_len(label)) + numbers, style)]
            return [*_label(label, width, style), (" " * column + numbers, style)]

        found = row(self.first, self.headings, "bold")
        for label, cells, style in self.rows:
            found += row(label, cells, style) if cells else _label(label, width, style)
        return found

    def _stacked(self, width: int) -> list[tuple[str, str]]:
        found = _label(self.first, width, "bold") if self.first else []
        for label, cells, style in self.rows:
            found += _label(label, width, style)
            indent = " " * (_indent(label) + 2)
            line = ""
            for heading, cell in zip(self.headings, cells, strict=False):
                pair = f"{heading} {cell}"
                if line and cell_len(line) + _GAP + cell_len(pair) > width:
                    found.append((line, style))
                    line = ""
                line = f"{line}{' ' * _GAP}{pair}" if line else indent + pair
            found += [(line, style)] if line else []
        return found

    def show(self, console: Console) -> None:
        for line, style in self.lines(console.width):
            console.print(Text(line.rstrip(), style=style))


def _indent(label: str) -> int:
    return len(label) - len(label.lstrip())


def _label(label: str, width: int, style: str) -> list[tuple[str, str]]:
    return [(line, style) for line in wrap(label, width, under=_indent(label) + 2).split("\n")]
