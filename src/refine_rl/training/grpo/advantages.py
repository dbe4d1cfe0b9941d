"""Rewards of a group -> advantages.

A member whose score is missing has no advantage (None) and takes no part in the statistics of its
group. A group whose rewards are all equal (`types.same_value`) teaches nothing: its advantages are exactly 0,
unless `by_sign` or `by_steps` is asked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from refine_rl.errors import GuardStop
from refine_rl.types import RIGHT_STEPS, Prompt, Score, Trajectory, mean_of, reaches, same_value

Scored = tuple[Prompt, tuple[Trajectory, ...], tuple[Score, ...]]
"""A group of which the advantages are still to be found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages:
    """The advantages of a step's groups: `kind` of them; what becomes of a group whose rewards are all equal
    (`flat`; `solved` is the reward from which it is solved, `steps_weight` that of its graded steps); whether
    they are multiplied by how far judges agree (`shrink`). `weights` are the components'."""

    kind: str = "zscore"
    deviation: str = "sample"
    epsilon: float = 1e-4
    flat: str = "keep"
    solved: float | None = None
    steps_weight: float | None = None
    shrink: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self, scored: Sequence[Scored], penalties: Sequence[Sequence[float]] | None = None
    ) -> list[tuple[float | None, ...]]:
        """A row for each group. `penalties` (a KL term) are taken off the members' rewards first; the reward
        on record stays what was given."""
        scores = [s for _, _, s in scored]
        if self.kind == "gdpo":
            found = gdpo(scores, self.weights, deviation=self.deviation, epsilon=self.epsilon)
        else:
            rewards = [[s.value for s in group] for group in scores]
            if penalties is not None:
                rewards = [
                    [None if r is None else r - p for r, p in zip(group, off, strict=True)]
                    for group, off in zip(rewards, penalties, strict=True)
                ]
            found = [self._within(group) for group in rewards]
        found = [a if any(a) else self._of_flat(a, s) for a, s in zip(found, scores, strict=True)]
        if self.shrink:
            found = [shrunk(a, s) for a, s in zip(found, scores, strict=True)]
        if self.flat == "drop":
            found = [a if any(a) else (None,) * len(a) for a in found]
        return found

    def _within(self, rewards_G: Sequence[float | None]) -> tuple[float | None, ...]:
        """The advantages that a group's own rewards decide."""
        if self.kind == "zscore":
            return zscore(rewards_G, deviation=self.deviation, epsilon=self.epsilon)
        if self.kind == "maxrl":
            return over_mean(rewards_G, epsilon=self.epsilon)
        return (mean_only if self.kind == "mean" else leave_one_out)(rewards_G)

    def _of_flat(
        self, advantages: tuple[float | None, ...], scores: Sequence[Score]
    ) -> tuple[float | None, ...]:
        """Of a group without advantages: by its sign, or by the steps of its answers, where that is asked."""
        if self.flat == "steps":
            return self._by_steps(scores)
        return advantages if self.solved is None else by_sign([s.value for s in scores], self.solved)

    def _by_steps(self, scores_G: Sequence[Score]) -> tuple[float | None, ...]:
        """By the steps of its answers, where they were graded."""
        rewards = [s.value for s in scores_G]
        shares = [s.breakdown.get(RIGHT_STEPS) for s in scores_G]
        graded = [r for r, share in zip(rewards, shares, strict=True) if share is not None]
        if not graded or self.steps_weight is None or self.solved is None:
            return self._within(rewards)
        right = self._within([self.solved, *graded[1:]])[0]
        return by_steps(shares, right=right or 0.0, weight=self.steps_weight)


def zscore(
    rewards_G: Sequence[float | None], *, deviation: str = "sample", epsilon: float = 1e-4
) -> tuple[float | None, ...]:
    """GRPO (arXiv 2402.03300): A = (R - mean) / (std + epsilon).

    `deviation` "sample" divides by G - 1 under the root (as torch.std does), "population" by G.

    >>> zscore([1.0, 0.0, None], deviation="population", epsilon=0.0)
    (1.0, -1.0, None)
    """
    centred, present = _centred(rewards_G)
    if not any(present):
        return centred
    freedom = len(present) - (1 if deviation == "sample" else 0)
    std = root_mean_square(present, freedom)
    return tuple(None if c is None else c / (std + epsilon) for c in centred)


def root_mean_square(values: Sequence[float], count: int) -> float:
    """The root of the sum of squares over `count`; also where squares are too large for a number.

    >>> root_mean_square([3e200, 4e200], 1) / 1e200
    5.0
    """
    with contextlib.suppress(OverflowError):
        squares = math.fsum(x * x for x in values)
        if math.isfinite(squares):
            return math.sqrt(squares / count)
    largest = max(map(abs, values))
    return largest * math.sqrt(math.fsum((x / largest) ** 2 for x in values) / count)


def mean_only(rewards_G: Sequence[float | None]) -> tuple[float | None, ...]:
    """A = R - mean (arXiv 2503.20783). Without the division by the deviation, prompts on which the policy is
    nearly always right or wrong weigh no more than others (Dr. GRPO).

    >>> mean_only([1.0, 0.0, 0.5])
    (0.5, -0.5, 0.0)
    """
    return _centred(rewards_G)[0]


def leave_one_out(rewards_G: Sequence[float | None]) -> tuple[float | None, ...]:
    """RLOO (Kool et al. 2019; arXiv 2402.14740): A = R - mean of the other members' R
    = (R - mean) G / (G - 1). The baseline does not depend on the member itself, so the gradient is
    unbiased; beside `mean_only` it is a factor, larger for small groups.

    >>> leave_one_out([1.0, 0.0, None, 0.5])
    (0.75, -0.75, None, 0.0)
    """
    centred, present = _centred(rewards_G)
    n = len(present)
    return centred if n < 2 else tuple(None if c is None else c * n / (n - 1) for c in centred)


def over_mean(rewards_G: Sequence[float | None], *, epsilon: float = 1e-4) -> tuple[float | None, ...]:
    """MaxRL (arXiv 2602.02710): A = (R - mean) / (mean + epsilon), for rewards of 0 and more.

    Where K of G rewards are 1 and the others 0, a right answer gets (G - K) / K and a wrong one -1: the
    gradient of the log of the pass rate p instead of p, so that hard prompts weigh more, about 1 / p. It is
    on average that of log p = -sum_k (1 - p)^k / k cut after k = G - 1 (and epsilon = 0): larger groups come
    nearer to it. (The paper keeps the term for groups without a right answer, and so reaches k = G; here they
    have no advantage.) Raises GuardStop for a reward below 0, where the mean says nothing of hardness.

    >>> over_mean([1.0, 0.0, None, 0.0, 0.0], epsilon=0.0)
    (3.0, -1.0, None, -1.0, -1.0)
    """
    if any(r is not None and r < 0 for r in rewards_G):
        least = min(r for r in rewards_G if r is not None)
        raise GuardStop(
            "negative_reward",
            f'`grpo.advantage = "maxrl"` divides by the mean reward of a group, and a reward was {least:g}.',
            'Use rewards of 0 and more, or another advantage: "rloo" does not divide.',
        )
    centred, present = _centred(rewards_G)
    if not any(present):
        return centred
    mean = mean_of([r for r in rewards_G if r is not None])
    return tuple(None if c is None else c / (mean + epsilon) for c in centred)


def by_sign(rewards_G: Sequence[float | None], solved: float) -> tuple[float | None, ...]:
    """AGPO's first form (arXiv 2503.15952 v1) for a group whose rewards are all equal: every member gets 1
    where the reward reaches `solved`, else -1. Other groups, and a member alone, get 0.

    >>> by_sign([1.0, None, 1.0], solved=1.0), by_sign([0.2, 0.2], solved=1.0), by_sign([0.0, 1.0], 1.0)
    ((1.0, None, 1.0), (-1.0, -1.0), (0.0, 0.0))
    """
    present = [r for r in rewards_G if r is not None]
    sign = 0.0
    if len(present) > 1 and same_value(present):
        sign = 1.0 if reaches(present[0], solved) else -1.0
    return tuple(None if r is None else sign for r in rewards_G)


def by_steps(shares_G: Sequence[float | None], *, right: float, weight: float) -> tuple[float | None, ...]:
    """SGPO (arXiv 2505.11595) for a group of wrong answers, of which s is the share of steps before the first
    wrong one: A = weight * right * (s - mean of the other members' s).

    `right` is the advantage that the only right answer of such a group would have. As s lies in [0, 1], no
    wrong answer gets more than `weight` of it, nor less than minus that. The paper puts s in the place of
    the reward, and so divides by its deviation; then the best of wrong answers may count as much as a right
    one, also where they hardly differ. A member without a share takes no part (None).

    >>> by_steps([1.0, 0.0, None, 0.0], right=2.0, weight=0.5)
    (1.0, -0.5, None, -0.5)
    """
    return tuple(None if a is None else weight * right * a for a in leave_one_out(shares_G))


def gdpo(
    groups: Sequence[Sequence[Score]],
    weights: Mapping[str, float],
    *,
    deviation: str = "sample",
    epsilon: float = 1e-4,
) -> list[tuple[float | None, ...]]:
    """GDPO (arXiv 2601.05242): each component is normalised within its group, then summed with its
    weight, then the sum is divided by its deviation over the batch; so a component with a small
    spread is heard as well as one with a large spread.

    The paper also subtracts the batch's mean, which is 0 here: every group's z-scores add up to 0.
    """
    sums: list[list[float | None]] = []
    for scores in groups:
        total: list[float | None] = [None if s.value is None else 0.0 for s in scores]
        for name, weight in weights.items():
            # A component that does not apply to a member adds nothing to it.
            column = [None if s.value is None else s.breakdown.get(name) for s in scores]
            normal = zscore(column, deviation=deviation, epsilon=epsilon)
            total = [
                t if t is None or a is None else t + weight * a for t, a in zip(total, normal, strict=True)
            ]
        sums.append(total)
    present = [a for total in sums for a in total if a is not None]
    freedom = len(present) - (1 if deviation == "sample" else 0)
    std = root_mean_square(present, freedom) if freedom > 0 else 0.0
    return [tuple(None if a is None else a / (std + epsilon) for a in total) for total in sums]


def shrunk(advantages: Sequence[float | None], scores: Sequence[Score]) -> tuple[float | None, ...]:
    """A group's advantages times the agreement of its judges; 0 where they contradict each other.

    >>> shrunk((1.0, None), (Score(value=1.0, agreement=0.5), Score.missing("no reply")))
    (0.5, None)
    """
    agreed = next((s.agreement for s in scores if s.agreement is not None), 1.0)
    return tuple(None if a is None else a * max(0.0, agreed) for a in advantages)


def _centred(rewards_G: Sequence[float | None]) -> tuple[tuple[float | None, ...], list[float]]:
    """R - mean for each member that has a reward; exactly 0 where they are all equal."""
    present = [r for r in rewards_G if r is not None]
    # The mean of equal numbers may differ from them in the last bit, and dividing by a tiny
    # deviation would blow that bit up.
    if len(present) < 2 or same_value(present):
        return tuple(None if r is None else 0.0 for r in rewards_G), [0.0] * len(present)
    mean = mean_of(present)
    return tuple(None if r is None else r - mean for r in rewards_G), [r - mean for r in present]
