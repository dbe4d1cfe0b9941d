"""What the reward goes with, over the steps: a chart, and a word where one of it is being paid for."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.evaluate.traits import WORTH, by_step, paid_for
from refine_rl.report.chart import Chart, Curve, Level, lines
from refine_rl.report.survey import Seen

_TITLES = {
    "length": "length",
    "copied": "copying of the prompt",
    "repeated": "repetition",
    "lists": "list lines",
    "bold": "bold words",
    "colons": "colons",
    "exclamations": "exclamation marks",
}
_GOOD = "Good: near 0, unless the task asks for it. High and growing, that is what is paid for."


def trait_charts(groups: Sequence[Seen], planned: int = 0) -> list[Chart | None]:
    """One for length, and one for every other trait that at some step goes with the reward, in a run of the
    `planned` steps."""
    found, words = by_step(groups), paid_for(groups, planned)
    shown = [
        name
        for name, steps in found.items()
        if name == "length" or name in words or any(r is not None and r >= WORTH for r in steps.values())
    ]
    return [
        lines(
            f"goes-with-{name}",
            f"Reward and {_TITLES[name]}: correlation within prompts",
            f"{_GOOD} {words.get(name, '')}".strip(),
            [
                Curve(
                    label="training, each step",
                    colour="train",
                    line=([*found[name]], [*found[name].values()]),
                    smooth=True,
                )
            ],
            levels=[Level(label="no relation", value=0.0)],
        )
        for name in shown
    ]
