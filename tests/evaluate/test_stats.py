from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_rl.evaluate import stats
from refine_rl.evaluate.stats import mean_ci, paired
from refine_rl.types import Estimate


def slow_interval(values: list[float], resamples: int, seed: int) -> tuple[float, float]:
    """One resample after the other, quantiles by sorting and linear interpolation."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = [values[i] for i in generator.integers(len(values), size=len(values))]
        means.append(sum(drawn) / len(drawn))
    means.sort()

    def quantile(q: float) -> float:
        place = q * (resamples - 1)
        below = int(place)
        above = min(below + 1, resamples - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    return quantile(0.025), quantile(0.975)


@pytest.mark.parametrize(
    ("values", "resamples", "seed"),
    [([0.0, 1.0, 1.0, 0.25, 0.5], 300, 0), ([3.0, -1.0], 101, 7), ([0.1 * i for i in range(17)], 57, 3)],
)
def test_the_interval_is_that_of_a_plain_loop(values: list[float], resamples: int, seed: int) -> None:
    estimate = mean_ci(values, resamples=resamples, seed=seed)
    assert estimate.mean == pytest.approx(sum(values) / len(values))
    assert estimate.ci95 == pytest.approx(slow_interval(values, resamples, seed))


def test_the_interval_is_close_to_the_exact_bootstrap_distribution() -> None:
    values = [0.0, 0.1, 0.5, 0.9, 1.0]
    exact = [sum(drawn) / 5 for drawn in itertools.product(values, repeat=5)]  # all 3125 resamples
    low, high = np.quantile(exact, [0.025, 0.975])
    assert mean_ci(values, resamples=40_000, seed=1).ci95 == pytest.approx((low, high), abs=0.011)


def test_the_interval_of_many_values_is_the_normal_one() -> None:
    chance = random.Random(5)
    values = [chance.gauss(0.3, 2.0) for _ in range(2000)]
    mean, half = float(np.mean(values)), 1.96 * float(np.std(values)) / 2000**0.5
    assert mean_ci(values, resamples=4000, seed=2).ci95 == pytest.approx((mean - half, mean + half), abs=0.01)


@pytest.mark.parametrize("values", [[0.1] * 3, [0.7], [-1e9 / 3] * 50])
def test_equal_values_and_a_single_one_give_an_interval_without_width(values: list[float]) -> None:
    assert mean_ci(values, resamples=200, seed=0) == Estimate(mean=values[0], ci95=(values[0], values[0]))


def test_the_seed_alone_decides() -> None:
    values = [0.0, 1.0, 0.5, 0.25]
    first = mean_ci(values, resamples=200, seed=3)
    assert first == mean_ci(values, resamples=200, seed=3)
    assert first.ci95 != mean_ci([0.0, 1.0, 0.4, 0.15], resamples=200, seed=3).ci95


def test_memory_is_bounded_and_the_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [random.Random(0).random() for _ in range(13)]
    at_once = mean_ci(values, resamples=500, seed=4)
    monkeypatch.setattr(stats, "_INDICES_AT_ONCE", 40)
    assert mean_ci(values, resamples=500, seed=4) == at_once


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a mean needs"):
        mean_ci(values, resamples=100, seed=0)
    with pytest.raises(ValueError, match="at least one resample"):
        mean_ci([1.0], resamples=0, seed=0)


def test_pairing_takes_the_prompts_difficulty_out() -> None:
    base = [0.0, 0.2, 0.4, 0.6, 0.8]
    contrast = paired(base, [x + 0.125 for x in base], resamples=300, seed=0)
    assert contrast.base == mean_ci(base, resamples=300, seed=0)
    assert contrast.tuned.mean == pytest.approx(0.525)
    assert contrast.base.ci95[1] > contrast.tuned.ci95[0]  # the two intervals overlap ...
    assert contrast.difference.mean == pytest.approx(0.125)
    assert contrast.difference.ci95 == pytest.approx((0.125, 0.125))  # ... the difference is certain


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 2.0], [1.0], resamples=100, seed=0)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12),
    st.integers(0, 1000),
)
def test_swapping_the_models_turns_the_sign(pairs: list[tuple[float, float]], seed: int) -> None:
    base, tuned = [b for b, _ in pairs], [t for _, t in pairs]
    there = paired(base, tuned, resamples=50, seed=seed)
    back = paired(tuned, base, resamples=50, seed=seed)
    assert back.base == there.tuned
    assert back.difference.mean == pytest.approx(-there.difference.mean, abs=1e-9)
    low, high = there.difference.ci95
    assert back.difference.ci95 == pytest.approx((-high, -low), abs=1e-9)
    assert there.difference.mean == pytest.approx(there.tuned.mean - there.base.mean, abs=1e-9)
