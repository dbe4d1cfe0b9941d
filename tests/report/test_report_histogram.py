"""Histograms of rewards over the steps, by hand."""

from __future__ import annotations

import re

from refine_rl.report.histogram import rewards_over_steps
from refine_rl.report.survey import Seen


def seen(step: int, *rewards: float | None) -> Seen:
    return Seen(step=step, prompt="p", rewards=rewards, agreement=None, size=1)


def test_a_stretch_of_steps_is_a_histogram_with_its_median() -> None:
    chart = rewards_over_steps([seen(1, 0.0, 0.0, 0.0, 1.0), seen(2, 1.0, None, 1.0)])
    assert chart is not None
    bars, median = (
        re.search(rf'<path d="([^"]*)" class="{kind}"', chart.svg)[1]  # type: ignore[index]
        for kind in ("area", "median")
    )
    # Two columns, 500 wide; the longest bar fills nine tenths; bins are 50 high, with a gap.
    assert bars == "M0 996h450v-42h-450zM0 46h150v-42h-150zM500 46h450v-42h-450z"
    assert median == "M0 1000h450M500 0h450"
    assert chart.table == (
        ("1", "0.00", "0.00", "0.00", "0.25", "1.00"),
        ("2", "1.00", "1.00", "1.00", "1.00", "1.00"),
    )
    text = chart.data["texts"][0].replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        "step 1, 4 completions: median 0.00, half of them 0.00 to 0.25, all 0.00 to 1.00; "
        "most (75 %) from 0.00 to 0.05"
    )
    assert "mean 0.25 in the first, 1.00 in the last" in chart.alt


def test_many_steps_come_together_and_those_without_scores_are_left_out() -> None:
    chart = rewards_over_steps([seen(step, step / 100, 2.0) for step in range(1, 26)])
    assert chart is not None
    assert [row[0] for row in chart.table] == [*(f"{n} to {n + 2}" for n in range(1, 25, 3)), "25"]
    assert chart.data["steps"] == [*range(1, 26, 3)]
    assert float(chart.y_ticks[-1][1]) == 2
    assert rewards_over_steps([seen(1, None)]) is None
    assert rewards_over_steps([]) is None
