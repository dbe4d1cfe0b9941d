"""Student's t by printed tables; which difference prompts could have shown, by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from refine_rl.evaluate.looks import chance
from refine_rl.evaluate.power import MOST, detectable, deviation, prompts_needed
from refine_rl.evaluate.stats import mean_ci
from refine_rl.evaluate.student import quantile, within


@pytest.mark.parametrize(
    ("share", "freedom", "printed"),
    [
        (0.975, 1, 12.7062),
        (0.95, 2, 2.9200),
        (0.975, 9, 2.2622),
        (0.8, 30, 0.8538),
        (0.995, 120, 2.6174),
        (0.975, 299, 1.96793),
        (0.975, 300, 1.96790),
        (0.975, 100_000, 1.95999),
    ],
)
def test_student_is_that_of_printed_tables(share: float, freedom: int, printed: float) -> None:
    assert quantile(share, freedom) == pytest.approx(printed, abs=6e-5)
    if freedom < 300:
        assert within(quantile(share, freedom), freedom) == pytest.approx(2 * share - 1)


def test_what_student_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="degrees of freedom: 0"):
        within(1.0, 0)
    with pytest.raises(ValueError, match=r"share of 0\.3"):
        quantile(0.3, 4)


def test_the_spread_is_the_standard_deviation() -> None:
    assert deviation([1.0, 3.0, 5.0]) == 2.0
    assert deviation([1.0]) == deviation([]) == 0.0


def test_a_difference_that_is_detectable_is_detected_in_four_of_five_cases() -> None:
    draw, n = np.random.default_rng(0), 20
    truth = detectable(0.5, n)
    shown = sum(
        mean_ci(list(draw.normal(truth, 0.5, size=n)), resamples=400, seed=0).ci95[0] > 0 for _ in range(400)
    )
    assert 0.74 <= shown / 400 <= 0.86


def test_the_prompts_that_are_needed_are_the_fewest() -> None:
    for difference in (0.5, -0.1, 0.03):
        needed = prompts_needed(0.4, difference)
        assert needed is not None
        assert detectable(0.4, needed) <= abs(difference) < detectable(0.4, needed - 1)
    assert prompts_needed(0.4, 0.4 * 1e-3) is None  # more than 100,000
    assert detectable(0.4, MOST) > 0.4 * 1e-3
    assert prompts_needed(0.0, 0.1) == 2


def slow_chance(differences: list[float]) -> float:
    """All signs, one after the other."""
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(s >= abs(sum(differences)) - 1e-9 for s in sums) / len(sums)


def test_the_chance_of_a_difference_is_that_of_all_signs() -> None:
    few = [0.5, -0.25, 0.0, 0.75, 0.25]
    assert chance(few, seed=0) == slow_chance(few) == 12 / 32
    more = [0.3, -0.1, 0.2, 0.4, -0.2, 0.5, 0.1, -0.3, 0.2, 0.3, 0.1, -0.1, 0.2, 0.1]  # drawn, not all
    assert chance(more, seed=0) == pytest.approx(slow_chance(more), abs=0.01)
    assert chance(more, seed=0) == chance([-x for x in more], seed=0)
    assert chance([0.0] * 20, seed=0) == 1.0
    assert chance([1.0] * 40, seed=0) == 1 / 10_000
    with pytest.raises(ValueError, match="at least one difference"):
        chance([], seed=0)
