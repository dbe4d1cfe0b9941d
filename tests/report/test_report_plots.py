"""Which charts there are, and what is drawn in them, read off the SVG."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from make import comparison, estimate
from refine_rl.report.chart import Chart, Curve, Level, lines
from refine_rl.report.plots import reward_chart, sft_loss_chart, sft_plots, training_plots
from refine_rl.report.points import moving_mean, thin
from refine_rl.report.quantities import QUANTITIES
from refine_rl.report.survey import Seen, survey
from refine_rl.run import RunFolder


def charts(
    metrics: list[dict[str, Any]], validation: list[dict[str, Any]], best: int | None = None, **more: Any
) -> dict[str, Chart]:
    families = training_plots(metrics, validation, best=best, **more)
    return {chart.title: chart for family in families for chart in family.charts}


def test_every_quantity_has_its_chart_in_its_family(run: RunFolder) -> None:
    families = training_plots(run.metrics(), run.validation(), groups=survey(run), best=60)
    assert {family.name: [chart.title for chart in family.charts] for family in families} == {
        "learning": [
            "Rewards of single completions",
            "Full successes on validation prompts",
            "Component: length",
            "Component: keeps",
            "Component: style",
            "Share of answers that no other prompt got",
        ],
        "health": [
            "Share of groups without spread",
            "Share of groups with a missing score",
            "KL to the reference, nats a token",
            "Entropy, nats a token",
            "Completion length, tokens",
            "Share cut at the token limit",
            "Gradient norm before clipping",
            "Policy loss",
            "Trainer against sampler, nats a token",
            "Reward and length: correlation within prompts",
            "Reward and exclamation marks: correlation within prompts",
        ],
        "cost": ["Seconds a step", "Sampled tokens a second"],
    }
    names = [chart.name for family in families for chart in family.charts]
    assert len(names) == len(set(names))
    for family in families:
        for chart in family.charts:
            assert chart.good.startswith(("Good: ", "Neither good nor bad: ")), chart.title


def test_the_guide_says_of_every_chart_what_to_do(run: RunFolder) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    pool = {"step": 1, "state": "drawn", "promised": {"a": 0.5}, "pool": {"new": 9}}
    more = {"cost_usd": 1.0, "groups": 4, "groups_missing": 0}
    seen = [Seen(step=n, prompt="p", rewards=(1.0,), agreement=0.5, size=1) for n in (1, 2)]
    drawn = charts(
        [m | more for m in run.metrics()[:2]], run.validation(), pool=[pool, pool | {"step": 2}], groups=seen
    )
    titles = {*drawn, *(q.title for some in QUANTITIES.values() for q in some)}
    assert len(titles) > 30
    rows = {line.split(" | ")[0].removeprefix("| ") for line in guide.splitlines() if line.startswith("| ")}
    for title in titles - {"Component: length", "Component: keeps", "Component: style"}:
        assert any(row.partition(" (")[0] == title.partition(",")[0] for row in rows), title


def test_the_reward_stands_alone_with_where_it_began(run: RunFolder) -> None:
    metrics, validation = run.metrics(), run.validation()
    chart = reward_chart(metrics, validation, best=60)
    assert chart is not None
    first, last = metrics[0]["reward_mean"], metrics[-1]["reward_mean"]
    assert f"Training, each step: {first:.2f} at step 1 to {last:.2f} at step 60" in chart.alt
    assert [label for label, _, _ in chart.legend] == ["training, each step", "validation, 95 % interval"]
    assert [form for _, _, form in chart.legend] == ["line", "dots"]
    start = validation[0]["reward"]["mean"]
    # The axis is 0 to 1.
    assert chart.levels == (
        (pytest.approx(100 * start, abs=0.01), f"before the first step {start:.2f}", "base"),
    )
    assert chart.marks == ((100.0, "kept: step 60"),)
    assert chart.svg.count('class="band"') == chart.svg.count('class="level"') == 1


def test_without_a_look_before_training_the_line_is_the_base_on_held_out_prompts(run: RunFolder) -> None:
    found = comparison("better", estimate(0.5, 0.4, 0.6), base=estimate(0.25, 0.2, 0.3))
    chart = reward_chart(run.metrics(), [], found)
    assert chart is not None
    assert chart.levels == ((25.0, "base on held-out prompts 0.25", "base"),)
    assert "Base on held-out prompts: 0.25." in chart.alt
    alone = reward_chart(run.metrics(), [])
    assert alone is not None
    assert alone.levels == ()


def test_a_drawing_is_small_has_no_letters_and_takes_the_pages_colours(run: RunFolder) -> None:
    drawn = charts(run.metrics(), run.validation(), 60, groups=survey(run))
    assert len(drawn) > 15
    for chart in drawn.values():
        root = ElementTree.fromstring(chart.svg)  # well formed
        assert root.attrib["viewBox"] == "0 0 1000 1000"
        assert not root.findall(".//text")
        assert not re.search(r"#[0-9a-f]{3}|\bid=", chart.svg)
        numbers = [int(n) for d in re.findall(r' d="([^"]+)"', chart.svg) for n in re.findall(r"-?\d+", d)]
        assert max(numbers) <= 1000


def test_the_same_numbers_give_the_same_bytes(run: RunFolder) -> None:
    assert training_plots(run.metrics(), run.validation()) == training_plots(run.metrics(), run.validation())


def line_of(values: list[float | None], **more: Any) -> Chart:
    chart = lines("x", "X", "", [Curve(label="x", colour="train", line=(range(len(values)), values))], **more)
    assert chart is not None
    return chart


def paths(chart: Chart, kind: str) -> list[str]:
    return re.findall(rf'<path d="([^"]*)" class="{kind}"', chart.svg)


def test_a_line_goes_through_its_points() -> None:
    """Steps 0 to 4 across, an axis of 0 to 1 up."""
    assert paths(line_of([0.0, 1.0, 0.5, 0.25, 0.75]), "line") == ["M0 1000L250 0L500 500L750 750L1000 250"]


def test_none_is_a_gap_and_a_lone_value_gets_a_dot() -> None:
    gaps = line_of([0.0, 1.0, None, 1.0, None, 0.0, 1.0])
    assert [path.count("M") for path in paths(gaps, "line")] == [3]
    assert paths(gaps, "dots") == ["M500 0h0"]
    assert paths(line_of([0.0, 1.0, 0.5]), "dots") == []


def test_levels_and_the_kept_step_are_where_they_belong() -> None:
    chart = line_of([0.0, 1.0, 1.0, 1.0, 1.0], levels=[Level(label="base", value=0.25)], best=3)
    assert paths(chart, "level") == ["M0 750H1000"]
    assert paths(chart, "best") == ["M750 0V1000"]
    assert chart.marks == ((75.0, "kept: step 3"),)
    assert line_of([0.0, 1.0], best=9).marks == ()  # a step that is not drawn


def test_where_a_drift_led_back_is_marked_at_the_top() -> None:
    """Most often it is the kept step as well."""
    chart = line_of([0.0, 1.0, 1.0, 1.0, 1.0], best=3, back=3)
    assert paths(chart, "best") == paths(chart, "back") == ["M750 0V1000"]
    assert (chart.marks, chart.top_marks) == (((75.0, "kept: step 3"),), ((75.0, "went back to step 3"),))
    assert chart.alt.endswith(" A drift led training back to step 3.")
    usual = line_of([0.0, 1.0, 1.0, 1.0, 1.0], best=3)
    assert (paths(usual, "back"), usual.top_marks) == ([], ())
    assert "drift" not in usual.alt


def test_a_single_value_is_a_dot() -> None:
    chart = lines("x", "X", "", [Curve(label="x", colour="train", line=([6, 7, 8], [None, 0.75, None]))])
    assert chart is not None
    assert paths(chart, "dots") == ["M500 250h0"]
    assert (50.0, "7") in chart.x_ticks


def test_an_interval_is_a_band_around_its_line() -> None:
    band = (([0, 1], [0.25, 0.5]), ([0, 1], [0.75, 1.0]))
    curve = Curve(label="x", colour="validation", line=([0, 1], [0.5, 0.75]), dotted=True, band=band)
    chart = lines("x", "X", "", [curve])
    assert chart is not None
    assert paths(chart, "band") == ["M0 250L1000 0L1000 500L0 750Z"]
    assert chart.data["series"][0]["low"] == [0.25, 0.5]


def test_the_numbers_of_a_chart_are_for_pointing_at_and_in_a_table(run: RunFolder) -> None:
    chart = reward_chart(run.metrics(), run.validation())
    assert chart is not None
    training, smoothed, validation = chart.data["series"]
    assert chart.data["x"] == list(range(1, 61))
    assert training["values"] == [pytest.approx(m["reward_mean"], rel=1e-3) for m in run.metrics()]
    assert smoothed["name"] == "training, each step, smoothed"
    assert validation["x"] == [0, 10, 20, 30, 40, 50, 60]
    assert chart.columns == ("Step", "Training, each step", "Validation, 95 % interval")
    steps = [row[0] for row in chart.table]
    assert steps[0] == "0"
    assert steps[-1] == "60"
    assert set(map(str, range(0, 61, 10))) <= set(steps)  # every look at the validation prompts
    assert chart.left_out == 61 - len(steps)
    assert f"{run.metrics()[9]['reward_mean']:.2f}" == {row[0]: row[1] for row in chart.table}["10"]


def test_quantities_without_values_and_empty_runs_have_no_chart(run: RunFolder) -> None:
    metrics = [m | {"kl": None, "loss": None} for m in run.metrics()[:3]]
    drawn = charts(metrics, [])
    assert "Policy loss" not in drawn
    assert "Full successes on validation prompts" not in drawn
    assert "Entropy, nats a token" in drawn
    assert training_plots([], []) == []
    assert reward_chart([], []) is None
    assert reward_chart([], run.validation()[:2]) is not None
    assert "Component: style" in charts([], run.validation()[:2])
    assert "Seconds a step" in charts(run.metrics()[:1], [])


def test_what_only_some_runs_have_is_drawn_where_they_have_it(run: RunFolder) -> None:
    rows = [m | {"groups": 4, "groups_missing": 0} for m in run.metrics()[:3]]
    for name, values, title in (
        ("kl_coefficient", (0.05, 0.049, 0.05), "KL coefficient"),
        ("clip_share", (0.0, 0.1, 0.0), "Share of tokens outside the clip range"),
        ("importance_mean", (1.0, 1.1, 0.9), "Importance weight before it is cut, mean"),
        ("importance_max", (1.0, 3.0, 2.0), "Importance weight before it is cut, largest"),
        ("groups_by_steps", (0, 1, 0), "Share of groups told apart by their steps"),
        ("updates", (4, 2, 4), "Optimizer steps a step"),
        ("moved_kl", (0.01, 0.04, 0.02), "From the policy that sampled, at the end of a step, nats a token"),
        ("teacher_kl", (0.9, 0.4, 0.2), "From the teacher, nats a token"),
        ("groups_sampled", (8, 8, 8), "Share of sampled groups of one text"),
        ("groups_missing", (0, 2, 0), "Share of groups with a missing score"),
        ("kept_share", (0.5, 0.5, 0.25), "Share of the prompt’s words that answers keep"),
        ("by_length", (0.1, 0.9, 0.2), "How far rewards follow from lengths alone"),
        ("cost_usd", (0.5, None, 0.25), "Dollars for LLMs, all steps so far"),
    ):
        with_it = [{**m, name: value} for m, value in zip(rows, values, strict=True)]
        assert title in charts(with_it, []), title
        assert title not in charts(rows, []), title
    alike = [{**m, "groups_sampled": 8, "groups_alike": n} for n, m in enumerate(rows)]
    found = charts(alike, [])["Share of sampled groups of one text"].data["series"][0]["values"]
    assert found == [0.0, 0.125, 0.25]
    same = {"kl_coefficient": 0.05, "clip_share": 0.0, "cost_usd": 0.0, "updates": 4}
    still = [{**m, **same} for m in rows]
    assert not {
        "KL coefficient",
        "Share of tokens outside the clip range",
        "Dollars for LLMs, all steps so far",
        "Optimizer steps a step",
    } & (charts(still, []).keys())


def test_costs_add_up_and_agreement_is_a_mean_of_its_step(run: RunFolder) -> None:
    rows = [m | {"cost_usd": cost} for m, cost in zip(run.metrics(), (0.5, None, 0.25), strict=False)]
    looked = [(1, 1.0), (1, 0.5), (2, None), (3, -0.5)]
    groups = [Seen(step=s, prompt="p", rewards=(1.0,), agreement=a, size=1) for s, a in looked]
    drawn = charts(rows, [], groups=groups)
    assert drawn["Dollars for LLMs, all steps so far"].data["series"][0]["values"] == [0.5, 0.5, 0.75]
    agreement = drawn["Agreement of the judges’ looks"].data
    assert (agreement["x"], agreement["series"][0]["values"]) == ([1, 3], [0.75, -0.5])


def test_seconds_are_stacked_in_the_order_of_the_legend(run: RunFolder) -> None:
    seconds = {"sample": 1.0, "score": 0.5, "train": 2.0, "total": 4.0}
    chart = charts([m | {"seconds": seconds} for m in run.metrics()[:2]], [])["Seconds a step"]
    assert chart.stacked
    assert [label for label, _, _ in chart.legend] == ["sampling", "scoring", "training", "other"]
    assert [series["values"] for series in chart.data["series"]] == [[1, 1], [0.5, 0.5], [2, 2], [0.5, 0.5]]
    heights = [tuple(map(int, re.findall(r"\d+ (\d+)", area))) for area in paths_of_areas(chart)]
    assert [(top, bottom) for top, *_, bottom in heights] == [
        (760, 1000),
        (639, 760),
        (159, 639),
        (38, 159),  # of 4.16, so that the highest does not touch the edge
    ]
    alone = charts([m | {"seconds": seconds} for m in run.metrics()[:1]], [])["Seconds a step"]
    assert all(float(x) for x in re.findall(r'<path d="M(\d+)', paths_of_areas(alone)[0]))


def paths_of_areas(chart: Chart) -> list[str]:
    return re.findall(r'<path d="[^"]*" style="fill[^>]*class="area"/>', chart.svg)


def test_a_curriculum_shows_what_it_promised_and_where_it_left_the_pool(run: RunFolder) -> None:
    titles = ["Share of groups with spread", "Training prompts by what their next group promises"]
    metrics = [m | {"groups": 4, "groups_zero_variance": n} for n, m in enumerate(run.metrics()[:3])]
    pool: list[dict[str, Any]] = [
        {"step": 1, "state": "drawn", "promised": {"a": 0.5, "b": 0.5}, "pool": {"new": 9}},
        {"step": 2, "state": "drawn", "promised": {"a": 0.9, "c": 0.5}, "pool": {"new": 7, "easy": 2}},
        {"step": 3, "state": "drawn", "promised": {"d": 0.8}, "pool": {"promising": 1, "new": 5, "easy": 3}},
    ]
    drawn = charts(metrics, [], pool=pool)
    shares, states = (drawn[title] for title in titles)
    assert "Promised: 0.50 at step 1 to 0.80 at step 3, lowest 0.50, highest 0.80." in shares.alt
    assert "Found: 1.00 at step 1 to 0.50 at step 3, lowest 0.50, highest 1.00." in shares.alt
    # Told apart without colours.
    assert [(label, form) for label, _, form in shares.legend] == [("promised", "level"), ("found", "line")]
    assert shares.svg.count('class="line dashed"') == 1
    assert "likely to differ 0 to 1, never tried 9 to 5, too easy 0 to 3." in states.alt
    assert charts(metrics[:2], [], pool=pool[:2]).keys() >= set(titles)
    other = [{"step": 1, "prompt_id": "a", "state": "back"}]
    assert not charts(metrics, [], pool=other).keys() & set(titles)
    assert not charts(metrics, []).keys() & set(titles)


def test_the_charts_of_supervised_fine_tuning() -> None:
    metrics = [
        {
            "step": n,
            "loss": 2.0 / n,
            "grad_norm": 1.0,
            "learning_rate": 1e-4,
            "tokens": 64,
            "seconds": {"train": 2},
        }
        for n in (1, 2)
    ]
    looks = [{"step": 0, "loss": 2.5}, {"step": 2, "loss": 1.5}]
    chart = sft_loss_chart(metrics, looks, best=2)
    assert chart is not None
    assert "Validation: 2.50 at step 0 to 1.50 at step 2" in chart.alt
    assert [label for _, label, _ in chart.levels] == ["before the first step 2.50"]
    found = {c.title: c.data["series"][0]["values"] for f in sft_plots(metrics) for c in f.charts}
    assert found["Tokens a second"] == [32, 32]
    assert sft_loss_chart([], []) is None


def test_thinning_and_smoothing_are_means_that_keep_gaps() -> None:
    assert thin([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], most=3) == ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    steps, values = thin([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, math.nan, math.nan, 9.0], most=3)
    assert steps == [1.5, 3.5, 5.0]
    assert values == pytest.approx([1.5, math.nan, 9.0], nan_ok=True)
    smooth = moving_mean([0.0, 3.0, math.nan, 6.0, 0.0], 1)
    assert smooth == pytest.approx([1.5, 1.5, math.nan, 3.0, 3.0], nan_ok=True)
    fall = moving_mean([8.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0], 4)
    assert fall == pytest.approx([5.0, 4.25, 3.6, 20 / 7, 21 / 9, 9 / 7, 0.8, 0.75, 2 / 3])


def test_a_long_run_stays_small(run: RunFolder) -> None:
    metrics = [run.metrics()[i % 60] | {"step": i} for i in range(2000)]
    assert max(len(chart.svg) for chart in charts(metrics, []).values()) < 30_000


def test_a_curve_begins_with_its_second_step() -> None:
    def chart(*values: float | None) -> Chart | None:
        curve = Curve(label="a", colour="train", line=(range(len(values)), values))
        lone = Curve(label="b", colour="validation", line=([0], [0.5]), dotted=True)
        return lines("x", "X", "Good: x.", [curve, lone])

    assert chart(1.0) is chart(None, math.nan) is None
    both = chart(1.0, None)
    assert both is not None
    assert [label for label, _, _ in both.legend] == ["a", "b"]
