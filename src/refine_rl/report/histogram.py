"""The rewards of single completions over the steps: a histogram for each stretch of steps, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refine_rl.report.chart import SIDE, Chart, drawing, grid
from refine_rl.report.data import number, share
from refine_rl.report.scale import Scale, upright
from refine_rl.report.survey import Seen
from refine_rl.types import mean_of

COLUMNS = 12  # at most
BINS = 20
_TITLE = "Rewards of single completions"
_GOOD = (
    "Good: the mass moves up, and keeps some width. A bar is as long as many completions earn so much, a "
    "line is their median. Two heaps are a reward that is all or nothing; one heap of no width leaves "
    "nothing to learn from."
)


def rewards_over_steps(groups: Sequence[Seen]) -> Chart | None:
    """Histograms with the reward upwards, each of a stretch of steps; None where there are no scores."""
    stretches = _stretches(groups)
    everything = [r for _, _, rewards in stretches for r in rewards]
    if not everything:
        return None
    up = upright(everything)
    width = SIDE / len(stretches)
    bars, feet, medians, texts, rows, ticks = [], [], [], [], [], []
    for n, (first, last, rewards) in enumerate(stretches):
        counts = _counts(rewards, up)
        most = max(counts)
        left = round(n * width)
        bars += [
            _bar(left, bin_, round(0.9 * width * count / most)) for bin_, count in enumerate(counts) if count
        ]
        name = f"step {first}" if first == last else f"steps {first} to {last}"
        feet.append(f"M{left} 0V{SIDE}")
        quarters = [_quantile(rewards, q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)]
        middle = round(SIDE * (1 - up.at(quarters[2])))
        medians.append(f"M{left} {middle}h{round(0.9 * width)}")
        texts.append(f"{name}, {len(rewards)} completions: {_told(quarters, counts, up)}")
        rows.append((str(first) if first == last else f"{first} to {last}", *map(number, quarters)))
        ticks.append((round(100 * (n + 0.5) / len(stretches), 2), str(first)))
    start, end = mean_of(stretches[0][2]), mean_of(stretches[-1][2])
    every = max(1, math.ceil(len(ticks) / 6))
    return Chart(
        name="rewards",
        wide=True,
        title=_TITLE,
        good=_GOOD,
        svg=drawing(
            [
                f'<path d="{grid(up)}{"".join(feet)}" class="grid"/>',
                f'<path d="{"".join(bars)}" class="area" style="fill:var(--train)"/>',
                f'<path d="{"".join(medians)}" class="median"/>',
            ]
        ),
        alt=f"{_TITLE}, as histograms of {len(stretches)} stretches of steps: mean {number(start)} in the "
        f"first, {number(end)} in the last.",
        data={
            "x": [round(SIDE * (n + 0.5) / len(stretches)) for n in range(len(stretches))],
            "range": [0, SIDE, up.low, up.high],
            "texts": texts,
            "steps": [first for first, _, _ in stretches],
            "series": [],
        },
        x_ticks=tuple(ticks[::every]),
        y_ticks=up.ticks(4),
        columns=("Steps", "Lowest", "Lower quarter", "Median", "Upper quarter", "Highest"),
        table=tuple(rows),
    )


def _stretches(groups: Sequence[Seen]) -> list[tuple[int, int, list[float]]]:
    """(first step, last step, rewards) of at most COLUMNS stretches of as many steps each, those without any
    score left out."""
    by_step: dict[int, list[float]] = {}
    for group in groups:
        by_step.setdefault(group.step, []).extend(r for r in group.rewards if r is not None)
    steps = sorted(by_step)
    each = max(1, math.ceil(len(steps) / COLUMNS))
    some = [steps[i : i + each] for i in range(0, len(steps), each)]
    found = [(part[0], part[-1], [r for s in part for r in by_step[s]]) for part in some]
    return [stretch for stretch in found if stretch[2]]


def _counts(rewards: Sequence[float], up: Scale) -> list[int]:
    counts = [0] * BINS
    for reward in rewards:
        counts[min(BINS - 1, int(BINS * up.at(reward)))] += 1
    return counts


def _bar(left: int, bin_: int, width: int) -> str:
    """From its left end to the right, in the height of its bin, the lowest at the bottom."""
    height = SIDE // BINS
    return f"M{left} {SIDE - bin_ * height - 4}h{max(3, width)}v{8 - height}h-{max(3, width)}z"


def _told(quarters: Sequence[float], counts: Sequence[int], up: Scale) -> str:
    low, lower, middle, upper, high = map(number, quarters)
    most = max(range(BINS), key=lambda n: counts[n])
    width = (up.high - up.low) / BINS
    part = share(counts[most] / sum(counts))
    return (
        f"median {middle}, half of them {lower} to {upper}, all {low} to {high}; most ({part}) from "
        f"{number(up.low + most * width)} to {number(up.low + (most + 1) * width)}"
    )


def _quantile(values: Sequence[float], q: float) -> float:
    """The value with a share of `q` below it, by linear interpolation.

    >>> _quantile([3.0, 1.0, 2.0], 0.25), _quantile([1.0], 0.75)
    (1.5, 1.0)
    """
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
