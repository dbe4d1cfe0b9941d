from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from refine_rl.report.plots import Plot, moving_mean, thin, training_plots
from refine_rl.run import RunFolder


def plots(
    metrics: list[dict[str, Any]], validation: list[dict[str, Any]], best: int | None = None
) -> dict[str, Plot]:
    return {plot.title: plot for plot in training_plots(metrics, validation, best=best)}


def test_every_quantity_has_its_plot(run: RunFolder) -> None:
    drawn = plots(run.metrics(), run.validation(), 60)
    assert list(drawn) == [
        "Reward",
        "Full successes on validation prompts",
        "Component: length",
        "Component: keeps",
        "Component: style",
        "Policy loss",
        "KL to the reference, nats a token",
        "Entropy, nats a token",
        "Completion length, tokens",
        "Share cut at the token limit",
        "Share of answers that no other prompt got",
        "Share of groups without variance",
        "Gradient norm before clipping",
        "Trainer against sampler, nats a token",
        "Seconds a step",
    ]
    first, last = run.metrics()[0]["reward_mean"], run.metrics()[-1]["reward_mean"]
    assert f"Training prompts: {first:.2f} at step 1 to {last:.2f} at step 60" in drawn["Reward"].alt
    assert [label for label, _ in drawn["Reward"].legend] == ["training prompts", "validation prompts"]


def test_svg_fits_into_a_page(run: RunFolder) -> None:
    drawn = list(plots(run.metrics(), run.validation(), 60).values())
    ids: list[str] = []
    for plot in drawn:
        ElementTree.fromstring(plot.svg)  # well formed
        assert plot.svg.startswith("<svg viewBox=")
        assert "#0" not in plot.svg.replace("(#", "")  # no stand-in colour is left
        assert "<style" not in plot.svg
        assert "<metadata" not in plot.svg
        own = re.findall(r'\bid="([^"]+)"', plot.svg)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', plot.svg)) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))
    assert "var(--train)" in drawn[0].svg
    assert "var(--validation)" in drawn[0].svg


def test_the_same_numbers_give_the_same_bytes(run: RunFolder) -> None:
    assert training_plots(run.metrics(), run.validation()) == training_plots(run.metrics(), run.validation())


def moves(svg: str, colour: str) -> int:
    """How many separate pieces the drawn line of a colour has."""
    lines = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--{colour}\)', svg)
    return sum(path.count("M") for path in lines)


@pytest.mark.parametrize(("gaps", "pieces"), [((), 1), ((3,), 2), ((3, 4, 7), 3)])
def test_none_is_a_gap(run: RunFolder, gaps: tuple[int, ...], pieces: int) -> None:
    metrics = [m | {"kl": None if i in gaps else 0.1 * i} for i, m in enumerate(run.metrics()[:10])]
    svg = plots(metrics, [])["KL to the reference, nats a token"].svg
    assert moves(svg, "train") == pieces


def test_a_lone_value_gets_a_dot(run: RunFolder) -> None:
    def dots(values: list[float | None]) -> int:
        metrics = [m | {"kl": v} for m, v in zip(run.metrics(), values, strict=False)]
        return plots(metrics, [])["KL to the reference, nats a token"].svg.count("<use ")

    ticks = dots([1.0, 2.0, 3.0])
    assert dots([1.0, None, 3.0]) == ticks + 2
    assert dots([1.0, 2.0, None]) == ticks


def test_quantities_without_values_and_empty_runs_have_no_plot(run: RunFolder) -> None:
    metrics = [m | {"kl": None, "loss": None} for m in run.metrics()[:3]]
    drawn = plots(metrics, [])
    assert "Policy loss" not in drawn
    assert "Full successes on validation prompts" not in drawn
    assert "Reward" in drawn
    assert training_plots([], []) == []
    assert set(plots([], run.validation()[:1])) >= {"Reward", "Component: style"}
    assert "Seconds a step" in plots(run.metrics()[:1], [])


def test_graded_steps_have_a_plot_where_there_were_any(run: RunFolder) -> None:
    title = "Share of groups told apart by their steps"
    metrics = [m | {"groups": 4, "groups_by_steps": 0} for m in run.metrics()[:3]]
    assert title not in plots(metrics, [])
    metrics[1] |= {"groups_by_steps": 1}
    assert "0.00 at step 1 to 0.00 at step 3, lowest 0.00, highest 0.25" in plots(metrics, [])[title].alt


def test_what_only_some_runs_have_is_drawn_where_they_have_it(run: RunFolder) -> None:
    lines = run.metrics()[:3]
    for name, values, title in (
        ("kl_coefficient", (0.05, 0.049, 0.05), "KL coefficient"),
        ("clip_share", (0.0, 0.1, 0.0), "Share of tokens outside the clip range"),
        ("importance_mean", (1.0, 1.1, 0.9), "Importance weight before it is cut, mean"),
        ("importance_max", (1.0, 3.0, 2.0), "Importance weight before it is cut, largest"),
    ):
        with_it = [{**m, name: value} for m, value in zip(lines, values, strict=True)]
        assert title in plots(with_it, [])
        assert title not in plots(lines, [])
    still = [{**m, "kl_coefficient": 0.05, "clip_share": 0.0} for m in lines]
    assert not {"KL coefficient", "Share of tokens outside the clip range"} & plots(still, []).keys()


def test_a_curriculum_shows_what_it_promised_and_where_it_left_the_pool(run: RunFolder) -> None:
    titles = ["Share of groups with spread", "Training prompts by what their next group promises"]
    metrics = [m | {"groups": 4, "groups_zero_variance": n} for n, m in enumerate(run.metrics()[:3])]
    pool: list[dict[str, Any]] = [
        {"step": 1, "state": "drawn", "promised": {"a": 0.5, "b": 0.5}, "pool": {"new": 9}},
        {"step": 2, "state": "drawn", "promised": {"a": 0.9, "c": 0.5}, "pool": {"new": 7, "easy": 2}},
        {"step": 3, "state": "drawn", "promised": {"d": 0.8}, "pool": {"promising": 1, "new": 5, "easy": 3}},
    ]
    drawn = {plot.title: plot for plot in training_plots(metrics, [], pool)}
    shares, states = (drawn[title] for title in titles)
    assert "Promised: 0.50 at step 1 to 0.80 at step 3, lowest 0.50, highest 0.80." in shares.alt
    assert "Found: 1.00 at step 1 to 0.50 at step 3, lowest 0.50, highest 1.00." in shares.alt
    assert [label for label, _ in shares.legend] == ["promised", "found"]
    assert "likely to differ 0 to 1, never tried 9 to 5, too easy 0 to 3." in states.alt
    for plot in (shares, states):
        ElementTree.fromstring(plot.svg)
    once = {plot.title for plot in training_plots(metrics[:1], [], pool[:1])}
    assert once >= set(titles)
    other = [{"step": 1, "prompt_id": "a", "state": "back"}]
    assert not {plot.title for plot in training_plots(metrics, [], other)} & set(titles)
    assert not {plot.title for plot in training_plots(metrics, [], [])} & set(titles)


def test_a_single_step_is_a_whole_number(run: RunFolder) -> None:
    """matplotlib would put it on an axis from -0.05 to 0.05."""
    drawn = plots([], run.validation()[:1])["Reward"].svg
    assert run.validation()[0]["step"] == 0
    assert len(re.findall(r'id="reward-matplotlib\.axis_1', drawn)) == 1
    assert len(re.findall(r'id="reward-xtick_\d+"', drawn)) == 1


def test_thinning_and_smoothing_are_means_that_keep_gaps() -> None:
    assert thin([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], most=3) == ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    steps, values = thin([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, math.nan, math.nan, 9.0], most=3)
    assert steps == [1.5, 3.5, 5.0]
    assert values == pytest.approx([1.5, math.nan, 9.0], nan_ok=True)
    smooth = moving_mean([0.0, 3.0, math.nan, 6.0, 0.0], 1)
    assert smooth == pytest.approx([1.5, 1.5, math.nan, 3.0, 3.0], nan_ok=True)


def test_a_long_run_stays_small(run: RunFolder) -> None:
    metrics = [run.metrics()[i % 60] | {"step": i} for i in range(2000)]
    assert max(len(plot.svg) for plot in training_plots(metrics, [])) < 150_000
