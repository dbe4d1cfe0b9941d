"""The list of runs, in a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from refine_rl.report.asked import money
from refine_rl.report.screen import shown
from refine_rl.report.wrapping import wrap
from refine_rl.run.glance import Glance
from refine_rl.types import MIN_PROMPTS, decimals
from refine_rl.types.amounts import SECONDS, amount

_HEADINGS = ("run", "steps", "outcome", "tuned - base", "cost", "time", "began")
_LONGEST_NAME = 32  # columns, in the wide form
_GAP = _INDENT = 2
_KINDS = {"sft": "supervised fine-tuning", "seeds": "several seeds"}
_COLOURS = {"better": "green", "worse": "red", "running": "cyan", "finished": ""}


def print_runs(runs: Sequence[Glance], console: Console) -> None:
    """A line of columns and one of what it is about, for each run; where the columns have no room, a short
    line more."""
    rows = [(_name(g), g, _cells(g)) for g in runs]
    names = min(_LONGEST_NAME, max([len(_HEADINGS[0]), *(cell_len(name) for name, _, _ in rows)]))
    widths = [max(cell_len(text) for text in column) for column in _columns([cells for _, _, cells in rows])]
    wide = names + sum(_GAP + width for width in widths) <= console.width
    if wide:
        console.print(Text(_line(_HEADINGS[0], names, _HEADINGS[1:], widths), style="bold"))
    for name, g, cells in rows:
        if wide:
            _print_wide(console, name, names, g, cells, widths)
        else:
            _print_narrow(console, name, g, cells)
        if about := _about(g):
            text = f"{_inner(g)}{about}"
            room = console.width if console.is_terminal else cell_len(text)
            cut = text if cell_len(text) <= room else f"{set_cell_size(text, room - 1).rstrip()}…"
            console.print(Text(cut, style="dim"))
        if g.why and g.state == "damaged":
            inner = _inner(g)
            why = wrap(f"{inner}{shown(g.why)}", console.width, under=len(inner))
            console.print(Text(why, style="yellow"))


def _columns(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(_HEADINGS[1:], *rows, strict=True))


def _line(name: str, room: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    text = name + " " * (room - cell_len(name))
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - cell_len(cell))
        text += " " * _GAP + (cell + space if number == 1 else space + cell)  # the outcome is a word
    return text.rstrip()


def _print_wide(
    console: Console, name: str, names: int, g: Glance, cells: Sequence[str], widths: Sequence[int]
) -> None:
    if cell_len(name) > names:
        console.print(Text(name, style="bold"))
        name = ""
    line = Text(_line(name, names, cells, widths))
    line.stylize("bold", 0, names)
    start = names + _GAP + widths[0] + _GAP
    line.stylize(_style(g), start, start + widths[1])
    console.print(line)


def _print_narrow(console: Console, name: str, g: Glance, cells: Sequence[str]) -> None:
    steps, outcome, difference, cost, time, began = cells
    told = f"{outcome} {difference}".strip()
    head = Text(name, style="bold")
    tail = Text(told, style=_style(g))
    gap = console.width - cell_len(name) - cell_len(told)
    if gap >= _GAP:
        console.print(head + Text(" " * gap) + tail)
    else:
        console.print(head)
        console.print(Text(_inner(g)) + tail)
    rest = (f"{steps} steps" if steps else "", time, cost, began)
    if line := ", ".join(text for text in rest if text):
        inner = _inner(g)
        console.print(Text(wrap(f"{inner}{line}", console.width, under=len(inner))))


def _name(g: Glance) -> str:
    name = g.name.removeprefix(f"{g.within}/") if g.within else g.name
    return shown(f"{_inner(g)[_INDENT:]}{name}")


def _inner(g: Glance) -> str:
    """The indent of what stands below a run's name."""
    return " " * _INDENT * (2 if g.within else 1)


def _cells(g: Glance) -> tuple[str, ...]:
    return (
        f"{g.steps}/{g.planned}" if g.planned else str(g.steps) if g.steps else "",
        outcome(g),
        _difference(g),
        "" if g.dollars is None and not g.unpriced else money(g.dollars, g.unpriced),
        amount(g.seconds, g.seconds, SECONDS) if g.seconds else "",
        when(g.created),
    )


def outcome(g: Glance) -> str:
    """What came of a run in a word or two: the verdict, where there is one and nothing is wrong.

    >>> from pathlib import Path
    >>> outcome(Glance(name="a", path=Path("a"), state="stopped", why="budget"))
    'stopped: budget'
    >>> outcome(Glance(name="a", path=Path("a"), state="finished", verdict="better"))
    'better'
    """
    if g.state == "stopped":
        return shown(f"stopped: {g.why}")
    if g.state == "finished" and g.verdict is not None:
        return shown(g.verdict)
    return g.state


def _style(g: Glance) -> str:
    return _COLOURS.get(outcome(g), "yellow")


def _difference(g: Glance) -> str:
    if g.difference is None:
        return ""
    low, high = g.difference.ci95
    mean = decimals(g.difference.mean, "+")
    if g.prompts is not None and g.prompts < MIN_PROMPTS:
        return mean
    return f"{mean} [{decimals(low, '+')}, {decimals(high, '+')}]"


def when(moment: datetime | None) -> str:
    """A moment on this machine's clock."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _about(g: Glance) -> str:
    """The model and the task, on one line; of a part of a run, what it is."""
    kind = _KINDS.get(g.kind, "")
    if g.within:
        return kind
    place = PurePath(g.model.removeprefix("file:"))
    model = "/".join(place.parts[-2:]) if place.is_absolute() else g.model  # of this machine: not all of it
    task = " ".join(g.task.split())
    return shown(": ".join(text for text in (", ".join(t for t in (model, kind) if t), task) if text))
