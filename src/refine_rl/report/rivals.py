"""The tuned model among its rivals: one table, a line of points with their intervals, and what each cost."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from refine_rl.evaluate.rivals import label_of, sampled_tokens, shipping, to_make
from refine_rl.report.columns import Columns
from refine_rl.report.data import Measure, measure, number
from refine_rl.report.safe import shown
from refine_rl.report.wrapping import wrap
from refine_rl.types import MIN_PROMPTS, Comparison, Contrast, Estimate, decimals

_HEADINGS = ("reward", "95 % interval", "tuned less it", "95 % interval", "to make", "tokens an answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A model: its reward, what tuned has more (None: it is tuned), what it took to make, and what an answer
    costs. `side` is how it is drawn, `measure` its place on the axis that all share."""

    name: str
    label: str
    side: str
    reward: Estimate
    tuned_minus: Estimate | None
    made: str
    tokens: str
    at_use: str
    measure: Measure


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """All models, which to ship, how the rivals were made (label, words, text found, where weights lie), and
    why others are missing."""

    rows: tuple[Row, ...]
    ship: str
    how: tuple[tuple[str, str, str, str], ...]
    missing: tuple[tuple[str, str], ...]
    intervals: bool


def contest(c: Comparison) -> Contest | None:
    """What is shown of a comparison with rivals; None for any other."""
    if not (c.rivals or c.others_missing) or c.reward is None:
        return None
    every = {"base": c.reward.base, **c.rivals, "tuned": c.reward.tuned}
    less: dict[str, Estimate] = {n: o.tuned_minus for n, o in c.rivals.items()}
    less["base"] = c.reward.difference
    axis = measure("", c.reward, {n: _alone(o, c) for n, o in c.rivals.items()})
    return Contest(
        rows=tuple(
            Row(
                name=name,
                label=label_of(name, c.rivals.get(name)),
                side=name if name in ("base", "tuned") else "other",
                reward=estimate,
                tuned_minus=less.get(name),
                made=to_make(name, c),
                tokens=number(sampled_tokens(c, name)) if sampled_tokens(c, name) is not None else "–",
                at_use=c.rivals[name].at_use if name in c.rivals else "",
                measure=axis,
            )
            for name, estimate in every.items()
        ),
        ship=shipping(c),
        how=tuple((label_of(n, o), o.how, o.found, o.folder) for n, o in c.rivals.items()),
        missing=tuple((label_of(n), why) for n, why in c.others_missing.items()),
        intervals=c.prompts >= MIN_PROMPTS,
    )


def _alone(estimate: Estimate, c: Comparison) -> Contrast:
    assert c.tuned is not None  # a comparison with a reward
    return Contrast(base=estimate, tuned=c.tuned, difference=estimate)


def print_rivals(c: Comparison, console: Console) -> None:
    """The table in the terminal, and how each was made; nothing where there are no rivals."""
    found = contest(c)
    if found is None:
        return
    table = Columns(first="beside its rivals", headings=_HEADINGS)
    for row in found.rows:
        table.add(
            shown(row.label),
            (
                decimals(row.reward.mean),
                _interval(row.reward, found.intervals),
                "" if row.tuned_minus is None else decimals(row.tuned_minus.mean, "+"),
                "" if row.tuned_minus is None else _interval(row.tuned_minus, found.intervals, "+"),
                row.made,
                row.tokens,
            ),
        )
    console.print()
    table.show(console)
    for label, how, text, folder in found.how:
        use = next((row.at_use for row in found.rows if row.label == label and row.at_use), "")
        said = f"{label}: {how}" + (f"; at use {use}" if use else "")
        said += f"; its weights: {folder}" if folder else ""
        _say(console, said)
        if text:
            _say(console, f"  its system prompt: {text!r}")


def _say(console: Console, text: str) -> None:
    text = shown(text)
    under = 2
    console.print(Text(wrap(text, console.width, under=under) if console.is_terminal else text, style="dim"))


def _interval(estimate: Estimate, enough: bool, sign: str = "") -> str:
    low, high = estimate.ci95
    return f"{decimals(low, sign)} to {decimals(high, sign)}" if enough else "too few"
