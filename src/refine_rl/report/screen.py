"""What a person sees in the terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import os
import re
import time

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from refine_rl.errors import RefineError
from refine_rl.evaluate.verdict import cautions, cut_text, lost_content, mostly_cut
from refine_rl.report.columns import Columns
from refine_rl.report.dialogue import told
from refine_rl.report.measured import print_metrics
from refine_rl.report.tiles import tinted
from refine_rl.report.wrapping import wrap
from refine_rl.types import MIN_PROMPTS, Comparison, Contrast, Metrics, Part, SFTMetrics, decimals

EXAMPLES = 3
_VALUES = 8  # of each facet that are shown
_LABELS = 20  # columns that labels need beside the table by facet
_FILE = 120  # columns of a table in a file, or in the input of another program
_COLUMNS = ("base", "tuned", "difference", "95 % interval")
_SUCCESS = ("success", "success_greedy")
_MEASURES = {"success_greedy": "success, greedy"}
_INDENT = 10  # columns of the clock
_FEW_BARS = 8  # of a curve; with fewer, numbers beside it give way
_BARS = "▁▂▃▄▅▆▇█"
# What could move the cursor, recolour the screen or reverse the text: control characters but line end and
# tab, marks of writing direction, and halves of surrogate pairs.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Text of a model, a file or a judge, safe to print on a terminal.

    >>> print(shown("red: \\x1b[31m"))
    red: \\x1b[31m
    """
    return _UNSAFE.sub(lambda unsafe: repr(unsafe[0])[1:-1], text)


def results() -> Console:
    """Standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE
    return console


def talk() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(console: Console, text: str, style: str = "", *, under: int | None = None) -> None:
    """Prints text of any origin as it is; on a terminal in lines broken between words, which go on in column
    `under`, or below their beginning."""
    text = shown(text)
    console.print(Text(wrap(text, console.width, under=under) if console.is_terminal else text, style=style))


def coloured(console: Console) -> bool:
    """Whether it is a terminal that shows colours (without NO_COLOR): else tiles stay as they are written."""
    return console.is_terminal and not console.no_color and console.color_system is not None


class Screen:
    """An Observer for people: stages with their clock, one line a step, warnings in yellow."""

    def __init__(self) -> None:
        self._console = talk()
        self._began = time.perf_counter()
        self._rewards: list[float] = []
        self._losses: list[float] = []

    @property
    def _narrow(self) -> bool:
        """Whether there is a screen, whose width counts; a file takes lines of any length."""
        return self._console.is_terminal or "COLUMNS" in os.environ

    def stage(self, text: str) -> None:
        clock, said = self._clock(), self._under(text).lstrip()
        self._console.print(f"[dim]{clock}[/]  [bold]{escape(said)}[/]")

    def note(self, text: str) -> None:
        self._console.print(self._under(text), markup=False)

    def warning(self, text: str) -> None:
        self._console.print(f"[yellow]warning[/]   {escape(self._under(text).lstrip())}")

    def _under(self, text: str) -> str:
        """The text in the column under a stage's words; on a terminal broken between words."""
        indented = "\n".join(" " * _INDENT + line for line in shown(text).splitlines() or [""])
        return wrap(indented, self._console.width - 1) if self._console.is_terminal else indented

    def step(self, metrics: Metrics, steps: int) -> None:
        if isinstance(metrics, SFTMetrics):
            self._sft_step(metrics, steps)
            return
        m = metrics
        if m.reward_mean is not None:
            self._rewards.append(m.reward_mean)
        reward = "   -  " if m.reward_mean is None else f"{decimals(m.reward_mean):>6}"
        number = f"{m.step:>{len(str(steps))}}/{steps}"
        tokens = f"tokens {m.tokens_mean:3.0f}, "
        rest = f"cut {m.clipped_share:4.0%}, no spread {m.groups_zero_variance}/{m.groups}"
        missing = f", missing {m.members_missing}" if m.members_missing else ""
        below = f",\n{' ' * _INDENT}{missing[2:]}" if missing else ""
        forms = (  # from a wide screen to a narrow one
            (f"step {number}  reward {reward} ", f" {tokens}{rest}", missing),
            (f"{number}  reward {reward} ", f" {tokens}{rest}", missing),
            (f"{number}  reward {reward} ", f" {rest}", missing),
            (f"{number}  reward {reward} ", f" {rest}", below),
        )
        clock = self._clock()
        for head, tail, end in forms if self._narrow else forms[:1]:
            bars = self._console.width - len(f"{clock}  {head}{tail}{end.partition(chr(10))[0]}")
            if bars >= 0:
                break
        bars = max(0, min(16, bars))
        curve = spark(self._rewards, bars)
        self._console.print(f"{clock}  {head}[cyan]{curve:<{bars}}[/]{tail}[yellow]{end}[/]")

    def _sft_step(self, m: SFTMetrics, steps: int) -> None:
        self._losses.append(m.loss)
        head = f"{self._clock()}  {m.step:>{len(str(steps))}}/{steps}  loss {m.loss:.4f} "
        speed = f", {m.tokens / m.seconds['train']:>7,.0f} tokens/s"
        looked = "" if m.validation_loss is None else f", validation {m.validation_loss:.4f}"
        room = len(", validation 10.0000")  # kept on each line, so that columns stand under each other
        tails = (f" epoch {m.epoch:5.2f}{speed}", f" epoch {m.epoch:5.2f}")  # a wide screen, a narrow one
        for tail in tails if self._narrow else tails[:1]:
            bars = self._console.width - len(head) - len(tail) - room
            if bars >= _FEW_BARS:
                break
        bars = max(0, min(16, bars))
        self._console.print(f"{head}[cyan]{spark(self._losses, bars):<{bars}}[/]{tail}{looked}")

    def _clock(self) -> str:
        return f"{time.perf_counter() - self._began:6.1f} s"


def spark(values: list[float], bars: int = 16) -> str:
    """A small bar for each of the last `bars` values, between the smallest and the largest of all.

    >>> spark([0.0, 0.5, 1.0]), spark([0.0, 1.0, 0.9, 1.0], bars=2), spark([1.0, 1.0])
    ('▁▅█', '██', '▅▅')
    """
    if not values or not bars:
        return ""
    low, high = min(values), max(values)
    shares = [(v - low) / (high - low) if high > low else 0.5 for v in values[-bars:]]
    return "".join(_BARS[min(7, int(share * 8))] for share in shares)


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
        _print_parts(c, console)
    print_metrics(c, console)
    for text in cautions(c).values():
        say(console, text, "yellow")
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
        for side, text in {"prompt": example.prompt, **answers}.items():
            line = f"{side:<6}  {shown(_one_line(text))}"
            line = wrap(line, console.width, under=8) if console.is_terminal else line
            answer = tinted(line[8:], "dim") if coloured(console) else Text(line[8:])
            console.print(Text(line[:8]) + answer)


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
    """Each further model beside the tuned one."""
    if c.tuned is None:
        return
    for name, other in c.others.items():
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

    def row(label: str, part: Part) -> None:
        cells = _numbers(part, part.prompts >= MIN_PROMPTS)[start:]
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
        for value, part in list(enough.items())[:_VALUES]:
            row(value, part)
        if left_out := len(values) - min(len(enough), _VALUES):
            table.add(f"  + {left_out} in the report", style="dim")
