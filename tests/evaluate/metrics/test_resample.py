"""Scores of a corpus, resampled by prompt: equal draws for every column, and stats.py's for a mean."""

from __future__ import annotations

import numpy as np
import pytest

from refine_rl.evaluate.metrics.resample import as_rows, mean, resample
from refine_rl.evaluate.stats import paired


def test_of_a_mean_it_is_the_bootstrap_of_the_reward() -> None:
    random = np.random.default_rng(1)
    base, tuned = random.normal(size=(2, 23))
    found = resample(
        {"base": as_rows(list(base)), "tuned": as_rows(list(tuned))}, mean, resamples=500, seed=4
    )
    assert found is not None
    usual = paired(list(base), list(tuned), resamples=500, seed=4)
    metric = found.metric()
    for side in ("base", "tuned", "difference"):
        ours, theirs = getattr(metric, side), getattr(usual, side)
        assert (ours.mean, *ours.ci95) == pytest.approx((theirs.mean, *theirs.ci95), abs=1e-12)
    assert metric.prompts == 23


def test_a_prompt_that_one_column_lacks_counts_for_none() -> None:
    base, tuned = as_rows([1.0, 5.0, 3.0]), as_rows([2.0, None, 6.0])
    found = resample(
        {"base": base, "tuned": tuned, "sft": as_rows([0.0, 9.0, 4.0])}, mean, resamples=50, seed=0
    )
    assert found is not None
    metric = found.metric("by hand", {"missing": 1})
    assert (metric.prompts, metric.base.mean, metric.tuned.mean, metric.difference.mean) == (2, 2.0, 4.0, 2.0)
    assert metric.others["sft"].mean == 2.0
    assert metric.others["sft"].tuned_minus.mean == 2.0
    assert (metric.how, metric.notes) == ("by hand", {"missing": 1})
    assert resample({"base": base, "tuned": as_rows([None] * 3)}, mean, resamples=50, seed=0) is None


def test_the_same_seed_draws_the_same_also_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"base": as_rows([0.1, 0.5, 0.7, 0.2]), "tuned": as_rows([0.3, 0.4, 0.9, 0.1])}
    whole = resample(rows, mean, resamples=101, seed=7)
    monkeypatch.setattr("refine_rl.evaluate.metrics.resample._COUNTS_AT_ONCE", 40)  # ten resamples at once
    pieces = resample(rows, mean, resamples=101, seed=7)
    other = resample(rows, mean, resamples=101, seed=8)
    assert whole is not None
    assert pieces is not None
    assert other is not None
    assert pieces.draws["base"] == pytest.approx(whole.draws["base"], abs=1e-12)
    assert len(pieces.draws["base"]) == 101
    assert other.draws["base"] != pytest.approx(whole.draws["base"], abs=1e-3)


def test_a_score_that_is_no_mean_is_one_of_sums() -> None:
    """exp(sum of losses / sum of tokens): long references weigh more."""
    losses = np.array([[2.0, 1.0], [3.0, 9.0]])
    found = resample(
        {"base": losses, "tuned": losses}, lambda s: np.exp(s[..., 0] / s[..., 1]), resamples=200, seed=0
    )
    assert found is not None
    assert found.points["base"] == pytest.approx(np.exp(0.5))
    assert found.estimate("base").ci95 == pytest.approx((np.exp(1 / 3), np.exp(2.0)))
    assert found.minus("tuned", "base").ci95 == (0.0, 0.0)
