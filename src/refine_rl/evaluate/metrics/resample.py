"""Intervals for scores of a whole corpus, by resampling its prompts.

A corpus score (BLEU, perplexity ...) is no mean over prompts: it is a function of sums over them. So each
prompt has a row of numbers that add up, and the score of a resample is that function of the resampled sums.
All columns are resampled by the same draws, so that the interval of a difference is paired by prompt (Koehn
2004, "Statistical significance tests for machine translation evaluation"). Where the score is a mean, this is
the bootstrap of `evaluate/stats.py`, draw for draw; `evaluate/interval.py` makes the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refine_rl.evaluate.interval import ends
from refine_rl.types import Beside, Estimate, Metric

Rows = NDArray[np.float64]
"""[P, K]: a prompt's row of numbers that add up over prompts; NaN where the prompt has none."""
Value = Callable[[Rows], Rows]
"""Sums [..., K] -> the score of each [...]."""

_COUNTS_AT_ONCE = 2_000_000  # bounds the memory: 16 MB of counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """A score of several columns on the `prompts` that all of them have: its value, each resample's, and that
    without one prompt each."""

    prompts: int
    points: Mapping[str, float]
    draws: Mapping[str, Rows]  # [R] each
    left_out: Mapping[str, Rows]  # [P] each

    def estimate(self, column: str) -> Estimate:
        return _estimate(self.points[column], self.draws[column], self.left_out[column])

    def minus(self, column: str, other: str) -> Estimate:
        """What `column` has more than `other`."""
        point = self.points[column] - self.points[other]
        draws, left_out = (each[column] - each[other] for each in (self.draws, self.left_out))
        return _estimate(point, draws, left_out)

    def beside(self, column: str, than: str = "tuned") -> Beside:
        own = self.estimate(column)
        return Beside(mean=own.mean, ci95=own.ci95, tuned_minus=self.minus(than, column))

    def metric(self, how: str = "", notes: Mapping[str, float] | None = None) -> Metric:
        """Of the columns "base" and "tuned", and all others beside them."""
        others = [name for name in self.points if name not in ("base", "tuned")]
        return Metric(
            base=self.estimate("base"),
            tuned=self.estimate("tuned"),
            difference=self.minus("tuned", "base"),
            prompts=self.prompts,
            how=how,
            notes=notes or {},
            others={name: self.beside(name) for name in others},
        )


def resample(columns: Mapping[str, Rows], value: Value, *, resamples: int, seed: int) -> Resampled | None:
    """The score of each column, and of each of `resamples` draws of as many prompts with replacement; None
    where no prompt has a row in every column.

    >>> mean = lambda sums: sums[..., 0] / sums[..., 1]
    >>> rows = {"base": np.array([[1.0, 1], [3.0, 1]]), "tuned": np.array([[2.0, 1], [np.nan, 1]])}
    >>> found = resample(rows, mean, resamples=100, seed=0)
    >>> found.prompts, found.points["base"], found.minus("tuned", "base")
    (1, 1.0, Estimate(mean=1.0, ci95=(1.0, 1.0)))
    """
    if resamples < 1:
        raise ValueError(f"an interval needs at least one resample, not {resamples}")
    had = np.all([np.isfinite(rows).all(axis=1) for rows in columns.values()], axis=0)
    kept = {name: rows[had] for name, rows in columns.items()}
    prompts = int(had.sum())
    if not prompts:
        return None
    generator = np.random.default_rng(seed)
    draws: dict[str, list[Rows]] = {name: [] for name in kept}
    at_once = max(1, _COUNTS_AT_ONCE // prompts)
    for start in range(0, resamples, at_once):
        many = min(at_once, resamples - start)
        drawn = generator.integers(prompts, size=(many, prompts))
        places = drawn + prompts * np.arange(many)[:, None]
        counts = np.bincount(places.ravel(), minlength=many * prompts).reshape(many, prompts)
        for name, rows in kept.items():
            draws[name].append(value(counts @ rows))
    return Resampled(
        prompts=prompts,
        points={name: float(value(rows.sum(axis=0))) for name, rows in kept.items()},
        draws={name: np.concatenate(some) for name, some in draws.items()},
        left_out={n: value(rows.sum(axis=0) - rows if prompts > 1 else rows) for n, rows in kept.items()},
    )


def as_rows(values: list[float | None]) -> Rows:
    """A number a prompt, whose `mean` is the score."""
    return np.array([[np.nan if v is None else v, 1.0] for v in values], dtype=np.float64).reshape(-1, 2)


def mean(sums: Rows) -> Rows:
    """
    >>> float(mean(as_rows([0.5, 1.0]).sum(axis=0)))
    0.75
    """
    found: Rows = sums[..., 0] / sums[..., 1]
    return found


def _estimate(point: float, draws: Rows, left_out: Rows) -> Estimate:
    return Estimate(mean=point, ci95=ends(draws, point, left_out))
