"""Means with bootstrap intervals, one value a prompt.

The bootstrap (Efron 1979): draw n prompts with replacement from the n that were evaluated, take the mean,
many times; `interval.py` reads the interval off these means.

What the interval means: had other prompts of the same kind been drawn, the mean would mostly have
landed in such an interval. What it leaves out: another training seed, another judge, prompts of
another kind. Its limits: over 5 prompts it still holds too rarely, and with one prompt it has no width and
says nothing about other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refine_rl.evaluate.interval import ends
from refine_rl.types import Contrast, Estimate

_INDICES_AT_ONCE = 1_000_000  # bounds the memory: 8 MB of indices, 8 MB of drawn values


def mean_ci(values: Sequence[float], *, resamples: int, seed: int) -> Estimate:
    """The mean of `values` (one a prompt) with its 95 % bootstrap interval (BCa).

    The same values, `resamples` and `seed` give the same interval. Equal values give an interval
    of no width. Raises ValueError for no values, a value that is not finite, or no resamples.

    >>> mean_ci([0.5, 0.5, 0.5], resamples=100, seed=0)
    Estimate(mean=0.5, ci95=(0.5, 0.5))
    """
    x = np.asarray(values, dtype=np.float64)  # [P]
    if x.ndim != 1 or x.size == 0:
        raise ValueError("a mean needs at least one value")
    if not np.isfinite(x).all():
        raise ValueError("a mean needs finite values")
    if resamples < 1:
        raise ValueError(f"an interval needs at least one resample, not {resamples}")
    # Distances from the first value: equal values stay exactly equal, whatever the rounding.
    distance = x - x[0]
    if x.size > 1:
        left_out = (distance.sum() - distance) / (x.size - 1)
        low, high = ends(_resampled_means(distance, resamples, seed), float(distance.mean()), left_out)
    else:
        low = high = 0.0
    return Estimate(mean=float(x[0] + distance.mean()), ci95=(float(x[0]) + low, float(x[0]) + high))


def paired(base: Sequence[float], tuned: Sequence[float], *, resamples: int, seed: int) -> Contrast:
    """Base against tuned on the same prompts, in the same order.

    The interval of the difference is that of the per-prompt differences `tuned - base`: what makes
    a prompt easy or hard for both models cancels, so it is usually narrower than the two intervals
    suggest. All three intervals come from the same draws of prompts.

    Raises ValueError when the lengths differ, and as `mean_ci` does.
    """
    differences = [t - b for b, t in zip(base, tuned, strict=True)]
    return Contrast(
        base=mean_ci(base, resamples=resamples, seed=seed),
        tuned=mean_ci(tuned, resamples=resamples, seed=seed),
        difference=mean_ci(differences, resamples=resamples, seed=seed),
    )


def _resampled_means(x: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """`resamples` means [R] of len(x) values drawn from x [P] with replacement, in bounded memory."""
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _INDICES_AT_ONCE // x.size)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = generator.integers(x.size, size=(stop - start, x.size))
        means[start:stop] = x[drawn].mean(axis=1)
    return means
