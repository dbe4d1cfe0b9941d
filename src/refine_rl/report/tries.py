"""What several tries reach, base beside tuned: the curves of best-of-k and of pass@k as charts."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.report.chart import Chart, Curve, lines
from refine_rl.types import MIN_PROMPTS, Comparison, Contrast, Estimate

AXIS = "answers"


def tries(c: Comparison, of: str = "") -> list[Chart]:
    """The charts of a comparison's curves, under names that end with what they are `of`; none where an answer
    or a few prompts is all there is."""
    if c.prompts < MIN_PROMPTS:
        return []
    best = _chart(
        f"tries-best{of}",
        "Reward of the best of so many answers",
        "Good: the tuned line stays above base to the right end. Lines that meet or cross there: base finds "
        "the same when it may try more often, so training made it likelier and taught nothing new.",
        c.curves.get("best", ()),
    )
    passed = _chart(
        f"tries-pass{of}",
        "A full success among so many answers",
        "Good: as beside. A line that is flat from 1 on is a model that always answers a prompt alike.",
        c.curves.get("pass", ()),
    )
    shown = [passed] if any(k.base.mean or k.tuned.mean for k in c.curves.get("pass", ())) else []
    return [chart for chart in (best, *shown) if chart is not None]


def _chart(name: str, title: str, good: str, curve: Sequence[Contrast]) -> Chart | None:
    sides = {"base": [k.base for k in curve], "tuned": [k.tuned for k in curve]}
    found = [_side(label, points) for label, points in sides.items() if points]
    return lines(name, title, good, found, axis=AXIS) if found else None


def _side(label: str, points: Sequence[Estimate]) -> Curve:
    at = list(range(1, len(points) + 1))
    ends = [(at, [p.ci95[end] for p in points]) for end in (0, 1)]
    return Curve(
        label=f"{label}, 95 % interval",
        colour=label,
        line=(at, [p.mean for p in points]),
        dotted=True,
        band=(ends[0], ends[1]),
    )
