"""Cohen's kappa, and an interval that holds for few."""

from __future__ import annotations

import numpy as np
import pytest

from refine_rl.evaluate.agreement import agreement


def pairs(table: list[list[int]]) -> list[tuple[str, str]]:
    names = ("tuned", "base", "tie")
    return [
        (names[row], names[column])
        for row in range(3)
        for column in range(3)
        for _ in range(table[row][column])
    ]


def test_kappa_of_a_table_worked_by_hand() -> None:
    """Observed 29 / 40. By chance (20 * 18 + 14 * 15 + 6 * 7) / 40^2 = 0.3825. Kappa = 0.3425 / 0.6175."""
    found = agreement(pairs([[15, 3, 2], [2, 10, 2], [1, 2, 3]]))
    assert (found.pairs, found.alike) == (40, 0.7)
    chance = (20 * 18 + 14 * 15 + 6 * 7) / 1600
    assert found.kappa == pytest.approx((0.7 - chance) / (1 - chance))
    low, high = found.ci95
    assert low < found.kappa < high


def test_full_agreement_chance_and_contradiction() -> None:
    same = agreement(pairs([[9, 0, 0], [0, 8, 0], [0, 0, 3]]))
    assert (same.kappa, same.ci95[1]) == (1.0, 1.0)
    assert 0.6 < same.ci95[0] < 0.95  # twenty votes do not prove that they always agree
    chance = agreement(pairs([[5, 5, 0], [5, 5, 0], [0, 0, 0]]))
    assert chance.kappa == pytest.approx(0.0)
    assert chance.ci95[0] < 0 < chance.ci95[1]
    against = agreement(pairs([[0, 10, 0], [10, 0, 0], [0, 0, 0]]))
    assert against.kappa == pytest.approx(-1.0)


def test_one_choice_alone_and_none() -> None:
    """Chance agrees as well where both always say the same: that tells little, and the interval says so."""
    always = agreement(pairs([[10, 0, 0], [0, 0, 0], [0, 0, 0]]))
    assert always.kappa == 1.0
    assert always.ci95[0] < 0.3
    none = agreement([])
    assert (none.pairs, none.kappa, none.ci95) == (0, None, (-1.0, 1.0))


def test_the_same_votes_have_the_same_interval_whatever_their_order() -> None:
    votes = pairs([[6, 2, 1], [1, 5, 0], [1, 0, 2]])
    assert agreement(votes, 3) == agreement(votes[::-1], 3)
    assert agreement(votes, 3).ci95 != agreement(votes, 4).ci95


@pytest.mark.parametrize(
    "truth",
    [
        [[12, 1, 0], [0, 6, 0], [0, 0, 1]],
        [[8, 3, 1], [2, 3, 1], [1, 1, 0]],
        [[17, 1, 0], [1, 1, 0], [0, 0, 0]],
    ],
)
def test_the_interval_covers_the_truth_with_twenty_votes(truth: list[list[int]]) -> None:
    chances = np.asarray(truth, dtype=float).ravel() / np.sum(truth)
    table = chances.reshape(3, 3)
    by_chance = float(table.sum(1) @ table.sum(0))
    kappa = (float(np.trace(table)) - by_chance) / (1 - by_chance)
    drawn = np.random.default_rng(1).multinomial(20, chances, size=80).reshape(-1, 3, 3)
    covered = [low <= kappa <= high for low, high in (agreement(pairs(t.tolist())).ci95 for t in drawn)]
    assert np.mean(covered) > 0.85
