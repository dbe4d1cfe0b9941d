"""Advantages, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_rl.errors import GuardStop
from refine_rl.training.grpo.advantages import (
    by_sign,
    by_steps,
    gdpo,
    leave_one_out,
    mean_only,
    over_mean,
    zscore,
)
from refine_rl.types import Score


def test_zscore_with_either_deviation() -> None:
    # Rewards 1, 0, 0, 0: mean 1/4, squared deviations 9/16 + 3/16 = 3/4.
    sample = math.sqrt(3 / 4 / 3)
    population = math.sqrt(3 / 4 / 4)
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert zscore(rewards, deviation="sample", epsilon=1e-4) == pytest.approx(
        [0.75 / (sample + 1e-4)] + [-0.25 / (sample + 1e-4)] * 3, rel=1e-12
    )
    assert zscore(rewards, deviation="population", epsilon=0.5) == pytest.approx(
        [0.75 / (population + 0.5)] + [-0.25 / (population + 0.5)] * 3, rel=1e-12
    )


def test_mean_only() -> None:
    assert mean_only([3.0, 1.0, 2.0]) == (1.0, -1.0, 0.0)


def test_leave_one_out() -> None:
    # 3 against the mean 1.5 of the others, 1 against 2.5, 2 against 2.
    assert leave_one_out([3.0, 1.0, 2.0]) == (1.5, -1.5, 0.0)
    # The others of a missing member's group are those that are there.
    assert leave_one_out([3.0, None, 1.0]) == (2.0, None, -2.0)


def test_over_mean() -> None:
    # Rewards 1, 1/2, 0: mean 1/2.
    assert over_mean([1.0, 0.5, None, 0.0], epsilon=0.0) == (1.0, 0.0, None, -1.0)
    assert over_mean([1.0, 0.5, 0.0], epsilon=0.5) == (0.5, 0.0, -0.5)
    assert over_mean([0.0, 0.0], epsilon=0.0) == (0.0, 0.0)
    with pytest.raises(GuardStop, match=r"a reward was -0\.5"):
        over_mean([1.0, None, -0.5])


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("size", [2, 5])
def test_maxrl_is_on_average_the_gradient_of_the_log_of_the_pass_rate(p: float, size: int) -> None:
    """All groups of a policy that is right with probability p = sigmoid(x), and so with the gradients 1 - p
    and -p of its two log-probs, against d/dx of -sum_k (1 - p)^k / k, k < size."""
    expected = 0.0
    for right in range(size + 1):
        chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
        advantages = over_mean([1.0] * right + [0.0] * (size - right), epsilon=0.0)
        slopes = [1 - p] * right + [-p] * (size - right)
        expected += chance * sum((a or 0.0) * s for a, s in zip(advantages, slopes, strict=True)) / size
    slope = math.fsum((1 - p) ** (k - 1) for k in range(1, size)) * p * (1 - p)
    assert expected == pytest.approx(slope, rel=1e-12)


def test_by_sign() -> None:
    assert by_sign([0.9, 0.9, None], solved=0.9) == (1.0, 1.0, None)
    assert by_sign([0.8, 0.8], solved=0.9) == (-1.0, -1.0)
    assert by_sign([0.8, 0.9], solved=0.9) == (0.0, 0.0)
    assert by_sign([1.0, None], solved=0.9) == (0.0, None)  # one is no group


def test_by_steps() -> None:
    # 1/2 against the mean 1/8 of the others, 0 against 7/24, 1/4 against 1/6, 1/8 twice as written.
    found = by_steps([0.5, 0.0, 0.25, 0.125], right=2.0, weight=0.5)
    assert found == pytest.approx([0.375, -0.875 / 3, 0.125 / 3, -0.125])
    assert by_steps([0.5, None, 0.0], right=1.0, weight=0.5) == (0.25, None, -0.25)
    assert by_steps([0.1] * 3, right=2.0, weight=0.5) == (0.0,) * 3
    assert by_steps([1.0, None], right=2.0, weight=0.5) == (0.0, None)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.floats(0.01, 0.99))
def test_no_wrong_answer_counts_like_a_right_one(shares: list[float], weight: float) -> None:
    only_right = zscore([1.0, *[0.0] * (len(shares) - 1)])[0]
    assert only_right is not None
    found = [a for a in by_steps(shares, right=only_right, weight=weight) if a is not None]
    assert max(map(abs, found)) <= weight * only_right * (1 + 1e-12)
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-9)


def test_a_missing_member_leaves_the_statistics() -> None:
    with_gap = zscore([1.0, None, 0.0, 0.5])
    without = zscore([1.0, 0.0, 0.5])
    assert with_gap[1] is None
    assert [a for a in with_gap if a is not None] == list(without)
    # Had it been counted as 0, the mean would be 0.375 and not 0.5.
    assert mean_only([1.0, None, 0.0, 0.5]) == (0.5, None, -0.5, 0.0)


@pytest.mark.parametrize("rewards", [[0.1] * 3, [0.7, None, None], [0.3, 0.3, None], [None, None]])
def test_no_spread_is_exactly_zero(rewards: list[float | None]) -> None:
    # sum([0.1] * 3) / 3 is not 0.1: without care the last bit would become an advantage of +-1.
    expected = tuple(None if r is None else 0.0 for r in rewards)
    assert zscore(rewards, epsilon=1e-30) == expected
    assert mean_only(rewards) == expected
    assert leave_one_out(rewards) == expected
    assert over_mean(rewards, epsilon=1e-30) == expected


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_add_up_to_zero(rewards: list[float]) -> None:
    assert abs(math.fsum(a or 0.0 for a in zscore(rewards))) < 1e-6


def test_gdpo_hears_the_component_with_the_small_spread() -> None:
    scores = [
        [
            Score(value=1.01, breakdown={"big": 1.0, "small": 0.01}),
            Score(value=0.0, breakdown={"big": 0.0, "small": 0.0}),
        ],
        [
            Score(value=1.0, breakdown={"big": 1.0, "small": 0.0}),
            Score(value=0.01, breakdown={"big": 0.0, "small": 0.01}),
        ],
    ]
    advantages = gdpo(scores, {"big": 1.0, "small": 1.0}, deviation="population", epsilon=0.0)
    # Each component's z-scores are +-1. Group 1: +2, -2; group 2: 0, 0. Deviation over the batch: sqrt(2).
    assert advantages[0] == pytest.approx((math.sqrt(2), -math.sqrt(2)))
    assert advantages[1] == pytest.approx((0.0, 0.0))
    # The weighted sum of rewards would have called the first member of group 2 far better.
    assert zscore([1.0, 0.01], deviation="population", epsilon=0.0) == pytest.approx((1.0, -1.0))


def test_gdpo_weights_and_missing_members() -> None:
    scores = [
        [
            Score(value=1.0, breakdown={"a": 1.0, "b": 0.0}),
            Score.missing("x"),
            Score(value=0.0, breakdown={"a": 0.0, "b": 1.0}),
        ]
    ]
    advantages = gdpo(scores, {"a": 3.0, "b": 1.0}, deviation="population", epsilon=0.0)
    # 3 - 1 = 2 and -3 + 1 = -2, over their deviation 2.
    assert advantages == [pytest.approx((1.0, None, -1.0))]


RESIDUE = [0.3, 0.1 + 0.2, 0.3]


def test_residue_is_no_spread() -> None:
    assert RESIDUE[0] != RESIDUE[1]
    assert zscore(RESIDUE) == mean_only(RESIDUE) == leave_one_out(RESIDUE) == (0.0, 0.0, 0.0)
    assert by_sign(RESIDUE, solved=0.3) == (1.0, 1.0, 1.0)
    assert by_sign([0.3, 0.3], solved=0.1 + 0.2) == (1.0, 1.0)
    assert by_steps(RESIDUE, right=2.0, weight=0.5) == (0.0, 0.0, 0.0)
    # Sums of large parts that cancel leave more of it; real differences stay.
    assert zscore([1e6, 1e6 + 1e-9]) == (0.0, 0.0)
    assert zscore([0.0, 1e-6], epsilon=1e-12) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)), rel=1e-5)


def test_rewards_of_any_size() -> None:
    small, large = [1.0, 0.0, 0.25], [1e200, 0.0, 2.5e199]
    for deviation in ("sample", "population"):
        assert zscore(large, deviation=deviation) == pytest.approx(
            zscore(small, deviation=deviation, epsilon=1e-30), rel=1e-9
        )
    assert mean_only([3e299, -3e299, 1e300, 1e300]) == pytest.approx((-2e299, -8e299, 5e299, 5e299))
    scores = [Score(value=v, breakdown={"a": v, "b": 1.0}) for v in (1e200, 0.0, 5e199)]
    assert gdpo([scores], {"a": 1.0, "b": 1e200})[0] == pytest.approx((1.0, -1.0, 0.0), rel=1e-3)
