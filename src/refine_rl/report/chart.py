"""Charts as SVG, from numbers alone: no library, the same to the byte for the same numbers.

A drawing has no letters and no size of its own. It is stretched into its place (its lines keep their width),
and what is written on it, ticks and names of lines, is text of the page beside it: so it is as legible on a
phone as on a wide screen, and in the page's own colours. `data` are the numbers for who points at it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from refine_rl.report.data import number
from refine_rl.report.points import SMOOTH_FROM, Line, moving_mean, summary, thin, with_gaps
from refine_rl.report.scale import Mark, Scale, along, upright

ROWS = 12  # of a chart's table
T = TypeVar("T")
SIDE = 1000  # units of a drawing, in both directions


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A horizontal line: what was there before training, or without it."""

    label: str
    value: float
    colour: str = "base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A line of a chart, which its form tells from others too: `dotted` ones have a dot at each value, and
    may have a `band` of lower and upper ends; others may be `dashed`."""

    label: str
    colour: str
    line: Line
    dotted: bool = False
    band: tuple[Line, Line] | None = None
    smooth: bool = False
    dashed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A figure of the page. `name` is unique on it and stays the same. `good` says in a line what good looks
    like; `alt` says what is drawn. `legend` has (label, colour, form): the form of a line is "line", "dots"
    or "level" (a broken one), that of an area "area". `table` has the heading of each column, and rows;
    `left_out` is how many rows are not in it. `levels` are (place from the bottom in percent, label,
    colour). `marks` are written at the bottom, `top_marks` at the top, where the two may be of one step."""

    name: str
    title: str
    good: str
    svg: str
    alt: str
    data: Mapping[str, Any]
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    legend: tuple[tuple[str, str, str], ...] = ()
    marks: tuple[Mark, ...] = ()
    top_marks: tuple[Mark, ...] = ()
    levels: tuple[tuple[float, str, str], ...] = ()
    columns: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    left_out: int = 0
    stacked: bool = False
    wide: bool = False
    axis: str = "step"  # what goes from left to right


# -- drawing --------------------------------------------------------------------------------------


def lines(
    name: str,
    title: str,
    good: str,
    curves: Sequence[Curve],
    *,
    unit: bool = False,
    levels: Sequence[Level] = (),
    best: int | None = None,
    back: int | None = None,
    axis: str = "step",
) -> Chart | None:
    """Curves against the step, or against another whole number (`axis`); None where none of them has a value,
    or none goes beyond its first step. `best` is the step of the checkpoint that was kept, `back` the one to
    which a drift led training back."""
    drawn = [c for c in curves if any(v is not None and math.isfinite(v) for v in c.line[1])]
    if all(len(c.line[0]) < 2 for c in drawn):
        return None
    points = [_thinned(c) for c in drawn]
    across = along([s for c in drawn for s in c.line[0]])
    everything = [v for c in points for v in (*c.values, *c.low, *c.high) if math.isfinite(v)]
    up = upright([*everything, *(level.value for level in levels)], unit=unit)
    place = _placed(across, up)
    paths = [*_grid(up), *_levels(levels, place), *(p for c in points for p in _curve(c, place))]
    marks, top_marks = (
        tuple(
            (place(step, up.low)[0] / SIDE * 100, text)
            for step in (at,)
            if step is not None and across.low <= step <= across.high
        )
        for at, text in ((best, f"kept: step {best}"), (back, f"went back to step {back}"))
    )
    for kind, written in (("best", marks), ("back", top_marks)):
        paths += [f'<path d="M{round(x * SIDE / 100)} 0V{SIDE}" class="{kind}"/>' for x, _ in written]
    columns, rows, left_out = _table(points, axis)
    return Chart(
        name=name,
        title=title,
        good=good,
        svg=drawing(paths),
        alt=f"{title} against the {axis}. "
        + " ".join(f"{c.label.capitalize()}: {summary(*c.line)}." for c in drawn)
        + "".join(f" {level.label.capitalize()}: {number(level.value)}." for level in levels)
        + ("" if back is None else f" A drift led training back to step {back}."),
        data=_line_data(points, across, up) | {"axis": axis},
        x_ticks=across.ticks(5, whole=True),
        y_ticks=up.ticks(4),
        legend=tuple((c.label, c.colour, _form(c)) for c in drawn),
        marks=marks,
        top_marks=top_marks,
        levels=tuple(
            (round(100 * up.at(v.value), 2), f"{v.label} {number(v.value)}", v.colour) for v in levels
        ),
        columns=columns,
        table=rows,
        left_out=left_out,
        axis=axis,
    )


def areas(
    name: str,
    title: str,
    good: str,
    steps: Sequence[float],
    stack: Mapping[tuple[str, str], Sequence[float]],
    alt: str,
) -> Chart:
    """Parts on top of one another, each by its (label, colour), the first at the bottom."""
    at = thin(steps, steps)[0]
    parts = [thin(steps, values)[1] for values in stack.values()]
    totals = [sum(column) for column in zip(*parts, strict=True)]
    across, up = along(at), Scale(low=0.0, high=max(totals) * 1.04 or 1.0)
    place = _placed(across, up)
    # One step has no width: it gets a bar.
    ends = [at[0] - 0.25, at[0] + 0.25] if len(at) == 1 else at
    below = [0.0] * len(ends)
    paths = _grid(up)
    for (_, colour), values in zip(stack, parts, strict=True):
        above = [b + v for b, v in zip(below, values * (2 if len(at) == 1 else 1), strict=True)]
        corners = [place(x, y) for x, y in zip(ends, above, strict=True)]
        corners += [place(x, y) for x, y in reversed([*zip(ends, below, strict=True)])]
        outline = "L".join(f"{x} {y}" for x, y in corners)
        paths.append(f'<path d="M{outline}Z" style="fill:var(--{colour})" class="area"/>')
        below = above
    labels = [label for label, _ in stack]
    rows = _some([(_step(s), *map(number, column)) for s, *column in zip(at, *parts, strict=True)])
    return Chart(
        name=name,
        title=title,
        good=good,
        svg=drawing(paths),
        alt=alt,
        data={
            "x": _short(at),
            "range": [across.low, across.high, up.low, up.high],
            "series": [{"name": n, "values": _short(v)} for n, v in zip(labels, parts, strict=True)],
        },
        x_ticks=across.ticks(5, whole=True),
        y_ticks=up.ticks(4),
        legend=tuple((label, colour, "area") for label, colour in stack),
        columns=("Step", *labels),
        table=tuple(rows),
        left_out=len(at) - len(rows),
        stacked=True,
    )


def _form(curve: Curve) -> str:
    return "dots" if curve.dotted else "level" if curve.dashed else "line"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Points:
    """A curve as it is drawn: a point stands for as many steps as neighbour it."""

    label: str
    colour: str
    steps: list[float]
    values: list[float]
    smooth: list[float]
    low: list[float]
    high: list[float]
    dotted: bool
    dashed: bool


def _thinned(curve: Curve) -> _Points:
    at, values = thin(*with_gaps(curve.line))
    low, high = (thin(*with_gaps(end))[1] for end in curve.band) if curve.band else ([], [])
    smooth = curve.smooth and len(at) >= SMOOTH_FROM
    return _Points(
        label=curve.label,
        colour=curve.colour,
        steps=at,
        values=values,
        smooth=moving_mean(values, len(values) // 12) if smooth else [],
        low=list(low),
        high=list(high),
        dotted=curve.dotted,
        dashed=curve.dashed,
    )


Place = Callable[[float, float], tuple[int, int]]


def _placed(across: Scale, up: Scale) -> Place:
    return lambda x, y: (round(SIDE * across.at(x)), round(SIDE * (1 - up.at(y))))


def grid(up: Scale) -> str:
    """The path of the lines at an axis's round numbers."""
    return "".join(f"M0 {round(SIDE * (1 - at / 100))}H{SIDE}" for at, _ in up.ticks(4))


def _grid(up: Scale) -> list[str]:
    return [f'<path d="{grid(up)}" class="grid"/>']


def _levels(levels: Sequence[Level], place: Place) -> list[str]:
    return [
        f'<path d="M0 {place(0, level.value)[1]}H{SIDE}" class="level" style="stroke:var(--{level.colour})"/>'
        for level in levels
    ]


def _curve(c: _Points, place: Place) -> list[str]:
    stroke = f'style="stroke:var(--{c.colour})"'
    found = []
    if c.low:
        ends = [
            (s, lo, hi) for s, lo, hi in zip(c.steps, c.low, c.high, strict=True) if math.isfinite(lo + hi)
        ]
        corners = [place(s, hi) for s, _, hi in ends] + [place(s, lo) for s, lo, _ in reversed(ends)]
        if len(ends) > 1:
            outline = "L".join(f"{x} {y}" for x, y in corners)
            found.append(f'<path d="M{outline}Z" class="band" style="fill:var(--{c.colour})"/>')
        else:
            found += [f'<path d="M{x} {y}V{y2}" class="thin" {stroke}/>' for (x, y), (_, y2) in [corners]]
    thick = "line dashed" if c.dashed else "line"
    single = path(c.steps, c.values, place)
    found.append(f'<path d="{single}" class="{"thin" if c.smooth else thick}" {stroke}/>')
    if c.smooth:
        found.append(f'<path d="{path(c.steps, c.smooth, place)}" class="{thick}" {stroke}/>')
    alone = c.values if c.dotted else _alone(c.values)
    at = [place(s, v) for s, v in zip(c.steps, alone, strict=True) if math.isfinite(v)]
    if at:
        dots = "".join(f"M{x} {y}h0" for x, y in at)
        found.append(f'<path d="{dots}" class="dots" {stroke}/>')
    return found


def path(steps: Sequence[float], values: Sequence[float], place: Place) -> str:
    """The line through the points, with a gap at each NaN.

    >>> path([0, 1, 2, 3], [0, 1, math.nan, 1], lambda x, y: (round(x), round(y)))
    'M0 0L1 1M3 1'
    """
    made, before = [], False
    for step, value in zip(steps, values, strict=True):
        there = math.isfinite(value)
        if there:
            x, y = place(step, value)
            made.append(f"{'L' if before else 'M'}{x} {y}")
        before = there
    return "".join(made)


def _alone(values: Sequence[float]) -> list[float]:
    """The values between two gaps, which no line goes through; NaN elsewhere."""
    padded = [math.nan, *values, math.nan]
    return [
        x if not math.isfinite(before) and not math.isfinite(after) else math.nan
        for before, x, after in zip(padded, values, padded[2:], strict=False)
    ]


def drawing(paths: Sequence[str]) -> str:
    """Paths as one SVG, which is stretched into its place."""
    inside = "".join(paths)
    return f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'


# -- numbers --------------------------------------------------------------------------------------


def _line_data(points: Sequence[_Points], across: Scale, up: Scale) -> dict[str, Any]:
    """The numbers of the curves; x stands once where it is the same."""
    first = points[0].steps
    series = []
    for c in points:
        one: dict[str, Any] = {"name": c.label, "values": _short(c.values)}
        if c.steps != first:
            one["x"] = _short(c.steps)
        if c.low:
            one |= {"low": _short(c.low), "high": _short(c.high)}
        series.append(one)
        if c.smooth:
            series.append({"name": f"{c.label}, smoothed", "values": _short(c.smooth)})
    return {"x": _short(first), "range": [across.low, across.high, up.low, up.high], "series": series}


def _table(points: Sequence[_Points], axis: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], int]:
    """Columns and some rows of the curves' numbers: those of the curve with the fewest values are in it."""
    every = sorted({s for c in points for s in c.steps})
    of = [dict(zip(c.steps, c.values, strict=True)) for c in points]
    wanted = sorted({*_some(every), *_some(min((c.steps for c in points), key=len))})
    rows = [(_step(s), *(number(one.get(s)) for one in of)) for s in wanted]
    return (axis.capitalize(), *(c.label.capitalize() for c in points)), tuple(rows), len(every) - len(rows)


def _some(rows: Sequence[T]) -> list[T]:
    """At most ROWS of the rows, spread over them, the first and the last among them."""
    if len(rows) <= ROWS:
        return list(rows)
    return [rows[round(k * (len(rows) - 1) / (ROWS - 1))] for k in range(ROWS)]


def _step(step: float) -> str:
    return f"{step:g}"


def _short(values: Sequence[float]) -> list[float | int | None]:
    """Numbers with four digits, None for NaN."""
    found: list[float | int | None] = []
    for value in values:
        rounded = float(f"{value:.4g}") if math.isfinite(value) else None
        found.append(int(rounded) if rounded is not None and rounded == int(rounded) else rounded)
    return found
