"""What a person sees in the terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from refine_rl.errors import RefineError
from refine_rl.evaluate import forgotten, looks, power
from refine_rl.evaluate.curves import sharpening
from refine_rl.evaluate.rivals import label_of, shipping
from refine_rl.evaluate.verdict import cautions, cut_text, lost_content, mostly_cut
from refine_rl.report.bottom import Bottom
from refine_rl.report.columns import Columns
from refine_rl.report.dialogue import told
from refine_rl.report.follow import Follower
from refine_rl.report.measured import print_metrics
from refine_rl.report.moment import line_of
from refine_rl.report.parts import in_order
from refine_rl.report.rivals import print_rivals
from refine_rl.report.safe import shown as shown
from refine_rl.report.tiles import tinted
from refine_rl.report.wrapping import wrap
from refine_rl.run import RunFolder
from refine_rl.types import MIN_PROMPTS, Comparison, Contrast, Part, decimals

EXAMPLES = 3
_VALUES = 8  # of each facet that are shown
_LABELS = 20  # columns that labels need beside the table by facet
_FILE = 120  # columns of a table in a file, or in the input of another program
_COLUMNS = ("base", "tuned", "difference", "95 % interval")
_SUCCESS = ("success", "success_greedy")
_MEASURES = {"success_greedy": "success, greedy"}
SILENCE = 30.0
"""Seconds after which somebody who reads a file of lines wants to hear how far it is."""


def results() -> Console:
    """Standard output."""
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE
    return console


def talk() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def say(console: Console, text: str, style: str = "", *, under: int | None = None) -> None:
    """Prints text of any origin as it is; on a terminal in lines broken between words, which go on in column
    `under`, or below their beginning."""
    text = shown(text)
    console.print(Text(wrap(text, console.width, under=under) if console.is_terminal else text, style=style))


def coloured(console: Console) -> bool:
    """Whether it is a terminal that shows colours (without NO_COLOR): else tiles stay as they are written."""
    return console.is_terminal and not console.no_color and console.color_system is not None


class Screen(Follower):
    """An Observer for people at a terminal, or of a file: stages with their clock, one line a step, warnings
    in yellow. In a `with` block a terminal has a line at its bottom that says how far everything is;
    elsewhere some lines say how long it will still take."""

    def __init__(
        self, run: RunFolder | None = None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(run, clock=clock)
        self._console = talk()
        self._bottom: Bottom | None = None
        self._mute = False
        self._spoke, self._told_left = self.seconds, float("-inf")

    @property
    def width(self) -> int:  # type: ignore[override]
        return self._console.width

    @property
    def narrow(self) -> bool:  # type: ignore[override]
        """Whether there is a screen, whose width counts; a file takes lines of any length."""
        return self._console.is_terminal or "COLUMNS" in os.environ

    def __enter__(self) -> Self:
        if moves(self._console):
            self._console = Console(file=sys.stderr, highlight=False, emoji=False, soft_wrap=True)
            plain = not self._console.encoding.startswith("utf")
            self._bottom = Bottom(
                sys.stderr, self._console, lambda width: line_of(self.now, self.seconds, width, plain=plain)
            )
            self._bottom.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        bottom, self._bottom = self._bottom, None
        if bottom is not None:
            bottom.__exit__()
            self._console = talk()

    def _say(self, text: Text) -> None:
        self._spoke = self.seconds
        if self._mute:
            return
        try:
            if self._bottom is not None:
                self._bottom.show(text)
            else:
                self._console.print(text)
        except Exception:  # the run is worth more than what is said of it
            if self._bottom is None:
                self._mute = True  # nobody sees it any more
                return
            self.__exit__()
            self._say(text)

    def draw(self) -> None:
        """Draws the line at the bottom as it is now, where there is one."""
        if self._bottom is not None:
            self._bottom.draw()

    def _changed(self) -> None:
        """Where nothing moves, a long part speaks up now and then."""
        if self._bottom is None and self.now.count is not None and self.seconds - self._spoke >= SILENCE:
            c, left = self.now.count, self.now.left(self.seconds)
            self.note(f"{c.what} {c.done}/{c.of}{left and ', '}{left}")

    def _with_left(self, line: Text) -> Text:
        left = self.now.left(self.seconds)
        if self._bottom is not None or not left or self.seconds - self._told_left < SILENCE:
            return line
        told = line + Text(f", {left}")
        if self.narrow and told.cell_len > self.width:
            return line
        self._told_left = self.seconds
        return told


def moves(console: Console) -> bool:
    """Whether lines can be drawn again: a real terminal (what pretends to be one, as many a log does with
    FORCE_COLOR, is none) that knows how to go back."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


def _one_line(text: str) -> str:
    line = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return line if len(line) <= 200 else line[:199] + "…"


def print_error(error: RefineError) -> None:
    """The error as a person reads it."""
    console = talk()
    head = "stopped" if error.exit_code in (3, 130) else "error"
    text = shown(str(error))
    if console.is_terminal:
        text = wrap(text, console.width, first=len(head) + 2)
    console.print(f"[bold red]{head}[/]  {escape(text)}")


def _legend(never: list[str]) -> str:
    """What the rows mean; `never` are the measures of success that are 0 on both sides."""
    success = "success: every component at its full value, a judge's from judge.success on"
    if len(never) == len(_SUCCESS):
        success = "no answer of either model is a full success (docs/settings.md: reward.success)"
    return f"{success}; greedy: the most likely answer"


def print_comparison(comparison: Comparison, what: str = "held-out prompts") -> None:
    """The verdict and what has to be said with it, base against tuned in small tables, and two answers side
    by side."""
    c, console = comparison, results()
    colour = {"better": "green", "worse": "red"}.get(c.verdict, "yellow")
    said = f"{c.verdict}{_compared_on(c, what)}"
    verdict = Text(wrap(said, console.width) if console.is_terminal else said)
    verdict.stylize(f"bold {colour}", 0, len(c.verdict))
    console.print()
    console.print(verdict)
    if cut := cut_text(c):
        say(console, cut, "yellow" if mostly_cut(c) else "dim")
    details = c.details
    never = [n for n in _SUCCESS if n in details and details[n].base.mean == details[n].tuned.mean == 0]
    if c.reward is not None:
        intervals = c.prompts >= MIN_PROMPTS
        table = Columns(first="", headings=_COLUMNS)
        for name, m in {"reward": c.reward, **details}.items():
            if name not in (*never, "cut"):
                label = _MEASURES.get(name, name.replace("component:", "  "))
                table.add(shown(label), _numbers(m, intervals))
        table.show(console)
        _print_others(c, console)
        print_rivals(c, console)
        _print_parts(c, console)
    print_metrics(c, console)
    if ship := shipping(c):
        say(console, ship, "bold")
    found = cautions(c)
    for text in found.values():
        say(console, text, "yellow")
    for text in (*looks.told(c), sharpening(c), forgotten.told(c), power.told(c)):
        if text and text not in found.values():
            say(console, text, "dim")
    if c.reward is not None:
        say(console, _legend(never), "dim")
        if c.prompts >= MIN_PROMPTS:
            b, t = c.reward.base, c.reward.tuned
            say(
                console,
                f"reward: base {decimals(b.mean)} [{decimals(b.ci95[0])}, {decimals(b.ci95[1])}], tuned "
                f"{decimals(t.mean)} [{decimals(t.ci95[0])}, {decimals(t.ci95[1])}] (95 % intervals)",
            )
    for example in comparison.examples[:EXAMPLES]:
        console.print()
        answers = {"base": example.base, **example.others, "tuned": example.tuned}
        answers |= {side: told(dialogue) for side, dialogue in example.dialogues.items()}
        labels = {side: label_of(side, c.rivals[side]) if side in c.rivals else side for side in answers}
        column = max(map(len, ("prompt", *labels.values()))) + 2
        lines = [("prompt", example.prompt), *((labels[side], text) for side, text in answers.items())]
        for side, text in lines:
            line = f"{side:<{column}}{shown(_one_line(text))}"
            line = wrap(line, console.width, under=column) if console.is_terminal else line
            answer = tinted(line[column:], "dim") if coloured(console) else Text(line[column:])
            console.print(Text(line[:column]) + answer)


def _compared_on(c: Comparison, what: str) -> str:
    """The verdict's sentence after the verdict."""
    if c.verdict not in ("better", "not better", "worse"):
        on = f": compared on {c.prompts}"
    else:
        qualified = " (answers mostly cut)" if mostly_cut(c) else ""
        qualified += " (the prompts’ content was lost)" if lost_content(c) else ""
        on = f"{qualified}: compared on {c.prompts}" if c.prompts_missing else f"{qualified} on {c.prompts}"
    if c.prompts_missing:
        return f"{on} of {c.prompts_asked} {what}"
    return f"{on} {what.removesuffix('s') if c.prompts == 1 else what}"


def _numbers(m: Contrast, intervals: bool) -> tuple[str, str, str, str]:
    low, high = m.difference.ci95
    interval = f"{decimals(low, '+')} to {decimals(high, '+')}" if intervals else "too few"
    return (
        f"{decimals(m.base.mean)}",
        f"{decimals(m.tuned.mean)}",
        f"{decimals(m.difference.mean, '+')}",
        interval,
    )


def _print_others(c: Comparison, console: Console) -> None:
    """Each model from which training began beside the tuned one."""
    if c.tuned is None:
        return
    for name, other in c.stages.items():
        table = Columns(first=f"beside {name}", headings=(shown(name), *_COLUMNS[1:]))
        reward = Contrast(base=other, tuned=c.tuned, difference=other.tuned_minus)
        for measure, m in {"reward": reward, **other.details}.items():
            if measure != "cut":
                label = _MEASURES.get(measure, measure.replace("component:", "  "))
                table.add(shown(label), _numbers(m, c.prompts >= MIN_PROMPTS))
        console.print()
        table.show(console)


def _print_parts(c: Comparison, console: Console) -> None:
    """The reward by facet, and on combinations of facets that training had and had not. Values with too few
    prompts for an interval are left to the report; on a narrow screen so are the rewards of the two sides."""
    if not c.facets:
        return
    names = ("prompts", *_COLUMNS)
    wide = Columns(first="reward by facet", headings=names)
    _fill(wide, c, start=0)
    if not wide.rows:
        return
    table = wide
    if wide.room(console.width) < _LABELS:
        table = Columns(first="reward by facet", headings=(names[0], *names[3:]))
        _fill(table, c, start=2)
    console.print()
    table.show(console)


def _fill(table: Columns, c: Comparison, start: int) -> None:
    """The rows of the table by facet, their contrasts' numbers from `start` on."""

    marked = any(part.holds for values in c.facets.values() for part in values.values())

    def row(label: str, part: Part) -> None:
        cells = _numbers(part, part.prompts >= MIN_PROMPTS)[start:]
        cells = (*cells[:-1], f"{cells[-1]}{' *' if part.holds else '  ' if marked else ''}")
        table.add(f"  {shown(_one_line(label))}", (str(part.prompts), *cells))

    if c.combinations:
        table.add("combinations")
    for name, label in (("seen", "met in training"), ("unseen", "held out whole")):
        if name in c.combinations:
            row(label, c.combinations[name])
    for facet, values in c.facets.items():
        enough = {v: part for v, part in values.items() if part.prompts >= MIN_PROMPTS}
        if not enough:
            continue
        table.add(shown(_one_line(facet)))
        for value, part in in_order(enough, _VALUES):
            row(value, part)
        if left_out := len(values) - min(len(enough), _VALUES):
            table.add(f"  + {left_out} in the report", style="dim")
