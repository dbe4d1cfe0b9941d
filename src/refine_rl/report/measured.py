"""The metrics of a comparison and their controls, as the page and the terminal show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from rich.console import Console

from refine_rl.evaluate import forgotten
from refine_rl.evaluate.curves import sharpening
from refine_rl.evaluate.metrics.names import CONTROLS, label
from refine_rl.report.chart import Chart
from refine_rl.report.columns import Columns
from refine_rl.report.data import Measure, examples, measure, measures, others, share
from refine_rl.report.headline import claim, told
from refine_rl.report.rivals import Contest, contest
from refine_rl.report.tries import tries
from refine_rl.run import RunFolder
from refine_rl.run.records import comparison_from
from refine_rl.types import (
    MIN_PROMPTS,
    Beside,
    Comparison,
    Contrast,
    Estimate,
    Example,
    Metric,
    count_of,
    decimals,
)

LATER_EXAMPLES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlRow:
    """A control's value of a metric."""

    label: str
    beside: Beside
    intervals: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What the page shows: the metrics, further models (name and label), the controls with what they are, and
    how it was all computed."""

    rows: tuple[Measure, ...]
    others: tuple[tuple[str, str], ...]
    controls: tuple[tuple[str, tuple[ControlRow, ...]], ...]
    how: tuple[str, ...]


def metrics(comparison: Comparison) -> Metrics | None:
    """What the page shows of a comparison's metrics; None where it has none."""
    found = comparison.metrics
    if not found:
        return None
    names = dict.fromkeys(name for metric in found.values() for name in metric.others)
    rows = [
        measure(
            label(name),
            metric,
            {other: _contrast(beside, metric) for other, beside in metric.others.items()},
            intervals=metric.prompts >= MIN_PROMPTS,
        )
        for name, metric in found.items()
    ]
    enough = any(row.intervals for row in rows)
    controls = tuple(
        (
            CONTROLS.get(control, control),
            tuple(ControlRow(label=label(n), beside=b, intervals=enough) for n, b in values.items()),
        )
        for control, values in comparison.controls.items()
    )
    how = [f"{label(name)}: {text}." for name, metric in found.items() if (text := _how(metric))]
    return Metrics(rows=tuple(rows), others=tuple(others(names)), controls=controls, how=tuple(how))


def _contrast(beside: Beside, metric: Metric) -> Contrast:
    return Contrast(base=beside, tuned=metric.tuned, difference=beside.tuned_minus)


def _how(metric: Metric) -> str:
    """How a metric was computed, and what was counted beside it."""
    notes = metric.notes
    said = [metric.how] if metric.how else []
    if (first := notes.get("first_shown")) is not None:
        said.append(f"of its verdicts for one of two answers {share(first)} were for the one shown first")
    if (turned := notes.get("turned")) is not None:
        said.append(f"{share(turned)} of the pairs turned around with the order, and are ties")
    if missing := notes.get("missing"):
        said.append(f"{missing:g} verdicts are missing")
    return "; ".join(said)


@dataclass(frozen=True, kw_only=True, slots=True)
class Later:
    """A later evaluation of the run; `measures` as those of its own comparison, beside `others`; `said` of
    the curves that `tries` draws and of what was forgotten; `contest` are its rivals; and some `examples`."""

    name: str
    claim: str
    numbers: str
    notes: tuple[str, ...]
    said: tuple[str, ...]
    tries: tuple[Chart, ...]
    metrics: Metrics | None
    measures: tuple[Measure, ...]
    others: tuple[tuple[str, str], ...]
    contest: Contest | None
    intervals: bool
    examples: tuple[Example, ...]


def later(run: RunFolder) -> list[Later]:
    """The evaluations that were made after the run's own comparison."""
    return [
        Later(
            name=name,
            claim=claim(found),
            numbers=told(found),
            notes=_notes(found),
            said=tuple(filter(None, (sharpening(found), forgotten.told(found)))),
            tries=tuple(tries(found, f"-{name}")),
            metrics=metrics(found),
            measures=tuple(measures(found)),
            others=tuple(others(found.stages)),
            contest=contest(found),
            intervals=found.prompts >= MIN_PROMPTS,
            examples=tuple(examples(found)[:LATER_EXAMPLES]),
        )
        for name, found in run.evaluations().items()
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A comparison of the run's model with another one: where its page lies, beside the report, and what came
    of it."""

    name: str
    page: str
    result: str


def rivals(run: RunFolder) -> list[Rival]:
    """The comparisons with other models that were made with `refine compare`, this run as A."""
    return [
        Rival(
            name=record["b"]["name"],
            page=quote(run.versus_page(name)),
            result=_result(record["verdict"], comparison_from(record["comparison"])),
        )
        for name, record in run.versus().items()
    ]


def _result(standing: str, comparison: Comparison) -> str:
    reward = comparison.reward
    if reward is None:
        return standing
    low, high = reward.difference.ci95
    interval = f" [{decimals(low, '+')}, {decimals(high, '+')}]" if comparison.prompts >= MIN_PROMPTS else ""
    more = f"{decimals(reward.difference.mean, '+')}{interval}"
    return (
        f"{standing}: reward of this run’s model (A) {decimals(reward.base.mean)}, of the other (B) "
        f"{decimals(reward.tuned.mean)}, difference B less A {more} "
        f"on {count_of(comparison.prompts, 'prompt')}"
    )


def _notes(comparison: Comparison) -> tuple[str, ...]:
    from refine_rl.evaluate.verdict import said_with

    return tuple(said_with(comparison))


# -- the terminal ---------------------------------------------------------------------------------


def print_metrics(comparison: Comparison, console: Console) -> None:
    """The metrics and the controls in small tables; nothing where there are none."""
    found = comparison.metrics
    if not found:
        return
    names = dict.fromkeys(name for metric in found.values() for name in metric.others)
    for side in ("base", *names):
        first = "greedy answers" if side == "base" else f"beside {side}"
        table = Columns(first=first, headings=(side, "tuned", "difference", "95 % interval"))
        for name, metric in found.items():
            if side == "base":
                contrast: Contrast = metric
            elif side in metric.others:
                contrast = _contrast(metric.others[side], metric)
            else:
                continue
            sides = (contrast.base, contrast.tuned)
            table.add(label(name), _cells(sides, contrast.difference, metric.prompts >= MIN_PROMPTS))
        console.print()
        table.show(console)
    if not comparison.controls:
        return
    prompts = max(metric.prompts for metric in found.values())
    controls = Columns(first="controls", headings=("control", "tuned has more", "95 % interval"))
    for control, values in comparison.controls.items():
        controls.add(CONTROLS.get(control, control))
        for name, beside in values.items():
            controls.add(f"  {label(name)}", _cells((beside,), beside.tuned_minus, prompts >= MIN_PROMPTS))
    console.print()
    controls.show(console)


def _cells(values: Sequence[Estimate], difference: Estimate, intervals: bool) -> tuple[str, ...]:
    low, high = difference.ci95
    interval = f"{decimals(low, '+')} to {decimals(high, '+')}" if intervals else "too few"
    return (*(decimals(v.mean) for v in values), decimals(difference.mean, "+"), interval)
