from __future__ import annotations

import random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_rl.evaluate import stats
from refine_rl.evaluate.stats import mean_ci, paired
from refine_rl.types import Estimate

T975 = {1: 12.706204736, 2: 4.30265273, 4: 2.776445105, 16: 2.119905299}  # of printed tables


def slow_interval(values: list[float], resamples: int, seed: int) -> tuple[float, float]:
    """BCa, one resample after the other, its quantiles by sorting and linear interpolation."""
    generator, n = np.random.default_rng(seed), len(values)
    means = []
    for _ in range(resamples):
        drawn = [values[i] for i in generator.integers(n, size=n)]
        means.append(sum(drawn) / n)
    means.sort()

    def quantile(q: float) -> float:
        place = q * (resamples - 1)
        below = int(place)
        above = min(below + 1, resamples - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    mean = sum(values) / n
    under = sum(m < mean - 1e-9 for m in means)
    equal = sum(abs(m - mean) <= 1e-9 for m in means)
    normal = NormalDist()
    bias = normal.inv_cdf((under + equal / 2) / resamples)
    skewed = sum((x - mean) ** 3 for x in values) / (6 * sum((x - mean) ** 2 for x in values) ** 1.5)
    reach = T975[n - 1] * (n / (n - 1)) ** 0.5
    moved = [bias - reach, bias + reach]
    low, high = (quantile(normal.cdf(bias + m / (1 - skewed * m))) for m in moved)
    return low, high


@pytest.mark.parametrize(
    ("values", "resamples", "seed"),
    [
        ([0.0, 1.0, 1.0, 0.25, 0.5], 300, 0),
        ([3.0, -1.0], 101, 7),
        ([0.1 * i for i in range(17)], 57, 3),
        ([0.0] * 9 + [0.25] * 5 + [0.75, 1.0, 1.0], 2000, 1),
    ],
)
def test_the_interval_is_that_of_a_plain_loop(values: list[float], resamples: int, seed: int) -> None:
    estimate = mean_ci(values, resamples=resamples, seed=seed)
    assert estimate.mean == pytest.approx(sum(values) / len(values))
    assert estimate.ci95 == pytest.approx(slow_interval(values, resamples, seed))


def test_the_interval_is_that_of_scipy_where_as_much_is_asked_of_it() -> None:
    scipy = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).beta(0.5, 2.0, size=17)
    asked = 2 * NormalDist().cdf(T975[16] * (17 / 16) ** 0.5) - 1  # as wide as Student's t
    found = scipy.bootstrap(
        (values,), np.mean, n_resamples=40_000, confidence_level=asked, method="BCa", rng=1
    ).confidence_interval
    assert mean_ci(list(values), resamples=40_000, seed=1).ci95 == pytest.approx(tuple(found), abs=0.006)


def test_a_skewed_reward_reaches_further_to_its_rare_side() -> None:
    values = [0.0] * 8 + [1.0] * 2
    found = mean_ci(values, resamples=20_000, seed=0)
    assert found.ci95[1] - found.mean > 1.5 * (found.mean - found.ci95[0]) > 0
    mirrored = mean_ci([1 - x for x in values], resamples=20_000, seed=0)
    assert mirrored.ci95 == pytest.approx((1 - found.ci95[1], 1 - found.ci95[0]))


def test_so_skewed_that_an_end_lies_beyond_all_resamples() -> None:
    # Acceleration (n - 2) / (6 sqrt(n (n - 1))) = 0.11, and the upper end is 3.1 deviations and a bias away.
    found = mean_ci([0.0, 0.0, 0.0, 0.0, 1.0], resamples=20_000, seed=0)
    assert found.ci95[0] == 0.0
    assert 0.6 <= found.ci95[1] <= 1.0


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
