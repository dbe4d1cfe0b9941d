"""How the rows of a step become optimizer steps.

A step's groups go through the model `updates` times. Each pass shuffles them, by the seed alone, into
`minibatches` of whole groups, with one optimizer step each; a minibatch has denominators of its own, so that
its loss is that of a step which had no other groups. The log-probs that the loss calls old stay those of the
step's beginning, and the learning rate is the step's.

Several optimizer steps on the same answers lead away from the policy that gave them. With `kl_stop` it is
measured, before each optimizer step but the first, how far they have led: with d = log pi - log mu of the
minibatch's own sampled tokens (mu: the policy that sampled them, pi: the policy now)

    K = mean (e^d - 1 - d),

the estimator k3 of KL(mu || pi) (Schulman 2020, "Approximating KL divergence"), which no token makes
negative. Above `kl_stop` the step is over; the gradient at hand is let go. To end a step's passes by such a
measure is PPO's early stopping (OpenAI's Spinning Up, 2018, there once a pass over all rows, by k1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from refine_rl.randomness import generator
from refine_rl.training.rows import Row

T = TypeVar("T")


def as_they_are(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows whose weights hold for any part of them."""
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """`weigh` gives the rows of a minibatch their weights."""

    updates: int = 1
    minibatches: int = 1
    kl_stop: float | None = None
    seed: int = 0
    weigh: Callable[[Sequence[Row]], Sequence[Row]] = as_they_are

    def batches(self, rows: Sequence[Row], step: int) -> list[list[Row]]:
        """What each optimizer step of `step` learns from, in their order: rows that teach. A minibatch
        without any has no optimizer step. Passes without minibatches are one list, again and again."""
        if self.minibatches == 1:
            worked = [r for r in rows if r.teaches]
            return [worked] * self.updates if worked else []
        groups: dict[object, list[Row]] = {}
        for row in rows:
            groups.setdefault((row.then, row.trajectory.prompt_id), []).append(row)
        found = []
        for update in range(self.updates):
            for part in shuffled([*groups.values()], self.minibatches, self.seed, step, update):
                weighed = self.weigh([row for group in part for row in group])
                found.append([row for row in weighed if row.teaches])
        return [batch for batch in found if batch]

    @property
    def counted(self) -> bool:
        """Whether a step may have fewer optimizer steps than the settings say."""
        return self.minibatches > 1 or self.kl_stop is not None

    def over(self, moved: float | None) -> bool:
        """Whether a step ends where the policy has moved so far."""
        return self.kl_stop is not None and moved is not None and not moved <= self.kl_stop


ONCE = Passes()


def shuffled(items: Sequence[T], parts: int, seed: int, step: int, update: int) -> list[list[T]]:
    """The items in so many parts of the same size but for one (fewer parts where there are fewer items), in
    an order that follows from the other arguments.

    >>> [sorted(part) for part in shuffled("abcde", 2, seed=0, step=1, update=0)]
    [['a', 'c', 'e'], ['b', 'd']]
    """
    order = generator(seed, "minibatches", step, update).permutation(len(items))
    return [[items[i] for i in part] for part in np.array_split(order, min(parts, len(items))) if len(part)]


def moved_by(apart: torch.Tensor) -> float | None:
    """K of tokens whose log-probs are `apart` from the sampler's by so much, [N]; None without a token.

    >>> moved_by(torch.tensor([0.0, 0.0])), round(moved_by(torch.tensor([1.0, -1.0])), 4)
    (0.0, 0.5431)
    """
    if not apart.numel():
        return None
    d = apart.double()
    return float((torch.expm1(d) - d).mean())
