"""Plots against the step, as SVG that takes its colours and letters from the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from refine_rl.report.data import number
from refine_rl.report.standing import Json

MOST_POINTS = 600  # longer runs are drawn as means of neighbouring steps
SMOOTH_FROM = 24  # from so many points on, a moving mean is drawn over the single steps

# Stand-ins that are replaced by CSS variables once matplotlib has drawn.
_COLOURS = {
    "text": "#010101",
    "grid": "#020202",
    "train": "#030303",
    "validation": "#040404",
    "sample": "#050505",
    "score": "#060606",
    "update": "#070707",
    "other": "#080808",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "refine",
    "font.size": 11,
    "text.color": _COLOURS["text"],
    "axes.edgecolor": _COLOURS["grid"],
    "axes.labelcolor": _COLOURS["text"],
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": False,
    "xtick.color": _COLOURS["text"],
    "ytick.color": _COLOURS["text"],
    "path.simplify": True,
}

Line = tuple[Sequence[float], Sequence[float | None]]  # steps [N], values [N]; None is a gap


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One figure of the page. `legend` pairs a label with the CSS variable of its colour."""

    title: str
    svg: str
    alt: str
    legend: tuple[tuple[str, str], ...] = ()


def training_plots(
    metrics: Sequence[Json],
    validation: Sequence[Json],
    pool: Sequence[Json] = (),
    *,
    best: int | None = None,
) -> list[Plot]:
    """Every plot of the training section; a quantity without any value has none.

    `metrics` are lines of metrics.jsonl, `validation` of validation.jsonl, `pool` of pool.jsonl; `best` is
    the step of the chosen checkpoint, marked where validation is drawn.
    """
    drawn_from = [line for line in pool if line["state"] == "drawn"]
    band = [_line_of(validation, lambda v, end=end: v["reward"]["ci95"][end]) for end in (0, 1)]  # type: ignore[misc]
    trained = _line_of(metrics, lambda m: m["reward_mean"])
    success = _line_of(validation, lambda v: v["success"])
    names = dict.fromkeys(name for line in (*metrics, *validation) for name in line["components"])
    drawn = [
        _curve("Reward", trained, _line_of(validation, lambda v: v["reward"]["mean"]), best, band),
        _curve("Full successes on validation prompts", ((), ()), success, best, unit=True),
        *(_component(name, metrics, validation, best) for name in names),
        *(
            _curve(q.title, _line_of(metrics, q.value), unit=q.unit)
            for q in _OF_A_STEP
            if q.is_shown(metrics)
        ),
        _promised(drawn_from, metrics),
        _pool(drawn_from),
        _times(metrics),
    ]
    return [plot for plot in drawn if plot is not None]


def sft_plots(metrics: Sequence[Json], validation: Sequence[Json], *, best: int | None = None) -> list[Plot]:
    """The plots of supervised fine-tuning: the loss on training and validation rows, and what each step
    was."""
    loss = _line_of(metrics, lambda m: m["loss"])
    drawn = [
        _curve("Loss, nats a token", loss, _line_of(validation, lambda v: v["loss"]), best, whose="rows"),
        _curve("Learning rate", _line_of(metrics, lambda m: m["learning_rate"]), whose="rows"),
        _curve("Gradient norm before clipping", _line_of(metrics, lambda m: m["grad_norm"]), whose="rows"),
        _curve(
            "Tokens a second",
            _line_of(
                metrics, lambda m: m["tokens"] / m["seconds"]["train"] if m["seconds"]["train"] else None
            ),
            whose="rows",
        ),
    ]
    return [plot for plot in drawn if plot is not None]


def _line_of(lines: Sequence[Json], value: Callable[[Json], float | None]) -> Line:
    return [line["step"] for line in lines], [value(line) for line in lines]


def _component(
    name: str, metrics: Sequence[Json], validation: Sequence[Json], best: int | None
) -> Plot | None:
    train, valid = (_line_of(lines, lambda m: m["components"].get(name)) for lines in (metrics, validation))
    return _curve(f"Component: {name}", train, valid, best)


def _share_of_groups(count: str) -> Callable[[Json], float | None]:
    return lambda m: m.get(count, 0) / m["groups"] if m["groups"] else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quantity:
    """A number of every training step; `is_shown` says of which runs."""

    title: str
    value: Callable[[Json], float | None]
    unit: bool = False
    is_shown: Callable[[Sequence[Json]], bool] = lambda metrics: True


_OF_A_STEP = (
    _Quantity(title="Policy loss", value=lambda m: m["loss"]),
    _Quantity(title="KL to the reference, nats a token", value=lambda m: m["kl"]),
    _Quantity(
        title="KL coefficient",
        value=lambda m: m.get("kl_coefficient"),
        is_shown=lambda metrics: len({m.get("kl_coefficient") for m in metrics}) > 1,
    ),
    _Quantity(
        title="Share of tokens outside the clip range",
        value=lambda m: m.get("clip_share"),
        unit=True,
        is_shown=lambda metrics: any(m.get("clip_share") for m in metrics),
    ),
    _Quantity(title="Importance weight before it is cut, mean", value=lambda m: m.get("importance_mean")),
    _Quantity(title="Importance weight before it is cut, largest", value=lambda m: m.get("importance_max")),
    _Quantity(title="Entropy, nats a token", value=lambda m: m["entropy"]),
    _Quantity(title="Completion length, tokens", value=lambda m: m["tokens_mean"]),
    _Quantity(title="Turns of a trajectory, mean", value=lambda m: m.get("turns_mean")),
    _Quantity(
        title="Share of trajectories that a limit ended",
        value=lambda m: m["ends"].get("limit", 0.0) if m.get("ends") else None,
        unit=True,
    ),
    _Quantity(
        title="Share of trajectories whose world failed",
        value=lambda m: m["ends"].get("failed", 0.0) if m.get("ends") else None,
        unit=True,
        is_shown=lambda metrics: any((m.get("ends") or {}).get("failed") for m in metrics),
    ),
    _Quantity(title="Share cut at the token limit", value=lambda m: m["clipped_share"], unit=True),
    _Quantity(
        title="Share of answers that no other prompt got",
        value=lambda m: m.get("distinct_share"),
        unit=True,
    ),
    _Quantity(
        title="Share of groups without variance", value=_share_of_groups("groups_zero_variance"), unit=True
    ),
    _Quantity(
        title="Share of groups told apart by their steps",
        value=_share_of_groups("groups_by_steps"),
        unit=True,
        is_shown=lambda metrics: any(m.get("groups_by_steps") for m in metrics),
    ),
    _Quantity(title="Gradient norm before clipping", value=lambda m: m["grad_norm"]),
    _Quantity(title="Trainer against sampler, nats a token", value=lambda m: m.get("mismatch_mean")),
)


def _curve(
    title: str,
    train: Line,
    validation: Line = ((), ()),
    best: int | None = None,
    band: Sequence[Line] = (),
    *,
    unit: bool = False,
    whose: str = "prompts",
) -> Plot | None:
    """Training and validation values against the step; None where there is no value at all.

    `band` holds the lower and the upper ends of the validation's intervals. The axis of a `unit`
    plot is 0 to 1.
    """
    train, validation = _with_gaps(train), _with_gaps(validation)
    lines = [("train", train), ("validation", validation)]
    present = [(name, line) for name, line in lines if any(map(math.isfinite, line[1]))]
    if not present:
        return None

    def draw(axes: Any) -> None:
        steps, values = thin(*train)
        smooth = len(steps) >= SMOOTH_FROM
        _line(axes, steps, values, "train", width=0.9 if smooth else 1.7, alpha=0.45 if smooth else 1)
        if smooth:
            _line(axes, steps, moving_mean(values, len(values) // 12), "train", width=2.0)
        if validation[0] and band:
            (at, low), (_, high) = (thin(*_with_gaps(line)) for line in band)
            axes.fill_between(at, low, high, color=_COLOURS["validation"], alpha=0.18, lw=0)
        axes.plot(*thin(*validation), color=_COLOURS["validation"], lw=1.6, marker="o", ms=3.5, mew=0)
        if best is not None and present[-1][0] == "validation":
            axes.axvline(best, color=_COLOURS["text"], lw=0.9, ls=(0, (1, 2)))
        if len({s for _, (at, _) in present for s in at}) == 1:  # one step: matplotlib would show fractions
            only = present[0][1][0][0]
            axes.set_xlim(only - 1, only + 1)
            axes.set_xticks([only])
        everything = [x for _, (_, ys) in present for x in ys if math.isfinite(x)]
        if unit or (min(everything) >= 0 and 0.5 < max(everything) <= 1 and not band):
            axes.set_ylim(-0.02, 1.02)
            axes.set_yticks([0, 0.5, 1])

    legend = {"train": f"training {whose}", "validation": f"validation {whose}"}
    svg = _draw(title, draw)
    alt = f"{title} against the step. " + " ".join(
        f"{legend[name].capitalize()}: {_summary(*line)}." for name, line in present
    )
    return Plot(title=title, svg=svg, alt=alt, legend=tuple((legend[n], n) for n, _ in present))


def _times(metrics: Sequence[Json]) -> Plot | None:
    """Seconds of a step, stacked by what they were spent on."""
    if not any(m["seconds"].get("total") for m in metrics):
        return None
    steps = [float(m["step"]) for m in metrics]
    parts_of = {"sample": "sample", "score": "score", "update": "train"}
    stack = {name: [m["seconds"].get(part, 0.0) for m in metrics] for name, part in parts_of.items()}
    known = [sum(parts) for parts in zip(*stack.values(), strict=True)]
    totals = [m["seconds"].get("total", 0.0) for m in metrics]
    stack["other"] = [max(0.0, total - k) for total, k in zip(totals, known, strict=True)]
    title = "Seconds a step"
    labels = {"sample": "sampling", "score": "scoring", "update": "training", "other": "other"}
    means = ", ".join(f"{labels[n]} {number(sum(ys) / len(ys))}" for n, ys in stack.items())
    return Plot(
        title=title,
        svg=_draw(title, _stacked(steps, stack)),
        alt=f"Where the time of a step went, stacked; mean seconds: {means}.",
        legend=tuple((labels[name], name) for name in stack),
    )


def _stacked(steps: Sequence[float], stack: Mapping[str, Sequence[float]]) -> Callable[[Any], None]:
    """Areas on top of each other, each by the name of its colour."""
    colours = [_COLOURS[name] for name in stack]

    def draw(axes: Any) -> None:
        if len(steps) == 1:  # an area needs two steps
            bottom = 0.0
            for (value,), colour in zip(stack.values(), colours, strict=True):
                axes.bar(steps, [value], bottom=bottom, color=colour, width=0.4)
                bottom += value
            return
        thinned = [thin(steps, values) for values in stack.values()]
        axes.stackplot(thinned[0][0], [ys for _, ys in thinned], colors=colours, lw=0, alpha=0.85)
        axes.set_ylim(bottom=0)

    return draw


_STATES = {  # of a training prompt in a curriculum: its colour, what it is called
    "promising": ("update", "likely to differ"),
    "new": ("other", "never tried"),
    "easy": ("sample", "too easy"),
    "hard": ("score", "too hard"),
    "alike": ("validation", "all alike"),
}


def _pool(pool: Sequence[Json]) -> Plot | None:
    """How many training prompts a curriculum held for what, stacked."""
    states = [state for state in _STATES if any(state in line["pool"] for line in pool)]
    if not states:
        return None
    stack = {_STATES[s][0]: [float(line["pool"].get(s, 0)) for line in pool] for s in states}
    title = "Training prompts by what their next group promises"
    ends = ", ".join(
        f"{_STATES[s][1]} {pool[0]['pool'].get(s, 0)} to {pool[-1]['pool'].get(s, 0)}" for s in states
    )
    return Plot(
        title=title,
        svg=_draw(title, _stacked([float(line["step"]) for line in pool], stack)),
        alt=f"{title}, stacked; from the first step to the last: {ends}.",
        legend=tuple((_STATES[s][1], _STATES[s][0]) for s in states),
    )


def _promised(pool: Sequence[Json], metrics: Sequence[Json]) -> Plot | None:
    """The share of groups with spread that a curriculum expected in each step, and the share that came."""
    said = [(line["step"], _mean(list(line["promised"].values()))) for line in pool]
    came = [(m["step"], 1 - m["groups_zero_variance"] / m["groups"]) for m in metrics if m["groups"]]
    if not said or not came:
        return None
    lines = {
        name: ([float(s) for s, _ in points], [v for _, v in points])
        for name, points in (("other", said), ("train", came))
    }

    def draw(axes: Any) -> None:
        for name, line in lines.items():
            steps, values = thin(*line)
            _line(axes, steps, moving_mean(values, len(values) // 12), name, width=1.7)
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks([0, 0.5, 1])

    title, labels = "Share of groups with spread", {"other": "promised", "train": "found"}
    return Plot(
        title=title,
        svg=_draw(title, draw),
        alt=f"{title} against the step. "
        + " ".join(f"{labels[name].capitalize()}: {_summary(*line)}." for name, line in lines.items()),
        legend=tuple((labels[name], name) for name in lines),
    )


def thin(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """At most `most` points, each the mean of as many neighbouring steps; NaN where all are NaN.

    >>> thin([1, 2, 3, 4], [1.0, 3.0, 5.0, float("nan")], most=2)
    ([1.5, 3.5], [2.0, 5.0])
    """
    width = max(1, math.ceil(len(steps) / most))
    starts = range(0, len(steps), width)
    return (
        [_mean(steps[i : i + width]) for i in starts],
        [_mean(values[i : i + width]) for i in starts],
    )


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the finite values from `width` before to `width` after; NaN stays NaN."""
    return [
        _mean(values[max(0, i - width) : i + width + 1]) if math.isfinite(value) else math.nan
        for i, value in enumerate(values)
    ]


def _mean(values: Sequence[float]) -> float:
    finite = [x for x in values if math.isfinite(x)]
    return sum(finite) / len(finite) if finite else math.nan


def _with_gaps(line: Line) -> tuple[list[float], list[float]]:
    steps, values = line
    return [float(s) for s in steps], [math.nan if v is None else float(v) for v in values]


def _line(
    axes: Any, steps: Sequence[float], values: Sequence[float], colour: str, *, width: float, alpha: float = 1
) -> None:
    """A line with gaps at NaN; a value between two gaps gets a dot, or it would not be seen."""
    padded = [math.nan, *values, math.nan]
    alone = [
        i
        for i, (before, x, after) in enumerate(zip(padded, values, padded[2:], strict=False))
        if math.isfinite(x) and not math.isfinite(before) and not math.isfinite(after)
    ]
    axes.plot(
        steps, values, color=_COLOURS[colour], lw=width, alpha=alpha, marker="o", ms=3, mew=0, markevery=alone
    )


def _summary(steps: Sequence[float], values: Sequence[float]) -> str:
    points = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    (first_step, first), (last_step, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{number(first)} at step {first_step:g}"
    lowest, highest = min(v for _, v in points), max(v for _, v in points)
    return (
        f"{number(first)} at step {first_step:g} to {number(last)} at step {last_step:g}, "
        f"lowest {number(lowest)}, highest {number(highest)}"
    )


def _draw(name: str, draw: Callable[[Any], None]) -> str:
    """An inline SVG of one pair of axes, the same to the byte for the same numbers."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 2.7))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.125, 0.17, 0.86, 0.76))
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=_COLOURS["grid"], lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step", loc="right", labelpad=1)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), re.sub(r"\W+", "-", name.lower()))


def _inline(svg: str, name: str) -> str:
    """Fits a stand-alone SVG into a page: ids of its own, the page's colours, no fixed size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]+"', head)
    assert view is not None
    svg = f'<svg {view[0]} xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true">{rest}'
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, stand_in in _COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{colour})")
    return svg.strip()
