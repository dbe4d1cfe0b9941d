"""A reward that rises while another eye sees the answers get worse."""

from __future__ import annotations

import numpy as np
import pytest

from refine_rl.evaluate.correlate import within
from refine_rl.evaluate.drift import Look, drift, looks_of
from refine_rl.evaluate.student import above_zero, rose

NAMES = [f"p{n}" for n in range(8)]
NOISE = [0.03, -0.02, 0.01, -0.04, 0.02, 0.0, -0.01, 0.01]


def look(step: int, reward: float, eye: float, names: list[str] = NAMES) -> Look:
    pairs = list(zip(names, NOISE, strict=False))
    turn = 1 if step % 2 else -1
    return Look(
        step=step,
        reward={name: reward + turn * by for name, by in pairs},
        eye={name: eye - turn * by for name, by in pairs},
    )


@pytest.mark.parametrize(  # one-sided points of Student's t from printed tables
    ("t", "freedom", "p"),
    [
        (6.314, 1, 0.05),
        (2.920, 2, 0.05),
        (4.541, 3, 0.01),
        (2.571, 5, 0.025),
        (4.785, 8, 0.0007),
        (1.753, 15, 0.05),
    ],
)
def test_the_p_value_is_that_of_the_tables(t: float, freedom: int, p: float) -> None:
    values = np.linspace(-1.0, 1.0, freedom + 1)
    values *= np.sqrt(freedom + 1) / values.std(ddof=1)
    assert above_zero([*(values + t)]) == pytest.approx(p, rel=0.02)
    assert above_zero([*(values - t)]) == pytest.approx(1 - p, rel=0.02)


def test_two_samples_are_compared_by_welch() -> None:
    before, after = [1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 7.0, 9.0]
    # Welch's degrees of freedom are 4.41 here, which become 4.
    t = 3.5 / ((5 / 3 + 20 / 3) / 4) ** 0.5
    values = np.linspace(-1.0, 1.0, 5)
    values *= np.sqrt(5) / values.std(ddof=1)
    assert rose(before, after) == pytest.approx(above_zero([*(values + t)]))
    assert rose(after, before) == pytest.approx(1 - rose(before, after))
    assert rose([1.0], after) == 1.0


def test_both_have_to_move_and_apart() -> None:
    first = look(0, 0.2, 0.6)
    found = drift([first, look(4, 0.8, 0.2)], 5)
    assert found is not None
    assert (found.since, found.now) == (0, 4)
    assert found.reward == pytest.approx((0.2, 0.8))
    assert found.eye == pytest.approx((0.6, 0.2))
    for reward, eye in ((0.8, 0.9), (0.1, 0.2), (0.8, 0.6), (0.2, 0.2)):
        assert drift([first, look(4, reward, eye)], 5) is None
    few = NAMES[:4]
    assert drift([look(0, 0.2, 0.6, few), look(4, 0.8, 0.2, few)], 5) is None
    assert drift([first], 5) is None


def test_it_is_told_from_where_the_other_eye_liked_best() -> None:
    looks = [look(0, 0.1, 0.5), look(2, 0.3, 0.8), look(4, 0.5, 0.7), look(6, 0.9, 0.2)]
    found = drift(looks, 4)
    assert found is not None
    assert found.since == 2
    # What the newest look does not show is over: the looks before are those of earlier alarms.
    assert drift([*looks, look(8, 0.9, 0.9)], 5) is None


def test_without_a_drift_a_whole_run_is_seldom_suspected() -> None:
    """The reward rises; the other eye's values are noise around each prompt's own level."""
    alarms, runs, planned = 0, 150, 6
    for seed in range(runs):
        draw = np.random.default_rng(seed)
        level = draw.normal(size=10)
        looks = [
            Look(
                step=step,
                reward={f"p{n}": step + float(x) for n, x in enumerate(draw.normal(size=10) * 0.1)},
                eye={f"p{n}": float(x) for n, x in enumerate(level + draw.normal(size=10))},
            )
            for step in range(planned)
        ]
        alarms += any(drift(looks[: n + 1], planned) is not None for n in range(planned))
    assert alarms <= 0.08 * runs  # 5 % by the bound; 8 % leaves this many runs their luck


def test_looks_are_those_lines_that_have_another_eye() -> None:
    lines = [
        {"step": 0, "reward": {"mean": 0.5}},
        {"step": 3, "reward": {"mean": 0.5}, "eye": {"prompts": {"p1": [0.5, 0.25]}}},
    ]
    assert looks_of(lines) == [Look(step=3, reward={"p1": 0.5}, eye={"p1": 0.25})]


def test_correlations_are_those_within_prompts() -> None:
    easy, hard = [(9.0, 1.0), (10.0, 0.0)], [(1.0, 8.0), (2.0, 7.0)]
    assert within([easy, hard]) == pytest.approx(-1.0)
    up = [(0.0, 5.0), (1.0, 6.0)]
    assert within([up, easy]) == pytest.approx(0.0)
    assert within([up, [], [(3.0, 3.0)]]) == pytest.approx(1.0)
    assert within([[(1.0, 1.0), (1.0, 2.0)]]) is None
    assert within([]) is None
