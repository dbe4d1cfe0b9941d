"""The distance to the reference: estimates of it, and the coefficient that holds it near a target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from refine_rl.training.check import PROBE_ROWS
from refine_rl.training.reference import References
from refine_rl.training.rows import MemberKey, sampled_logprobs
from refine_rl.types import Group, StepMetrics, Trajectory

GAIN = 0.1  # Ziegler et al.'s K_beta: a step changes the coefficient by at most GAIN * MOST = 2 %
MOST = 0.2


def kl_terms(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimates of KL(pi || reference) from tokens of pi, with d = log reference - log pi
    (Schulman 2020, "Approximating KL divergence"): k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1.

    Some texts put a factor 1/2 before k3; the field's definition, and this one, has none. As a loss
    term k1 has a gradient whose mean is 0: use k2 or k3 there.
    """
    d = reference - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d * d / 2
    if estimator == "k3":
        return torch.exp(d) - d - 1
    raise ValueError(f"unknown KL estimator {estimator!r}")


def adapted(first: float, target: float, measured: Iterable[float | None]) -> float:
    """The coefficient after steps with these KLs, from `first` on (Ziegler et al. 2019, arXiv 1909.08593):

        e = clip((KL - target) / target, -0.2, 0.2),   beta <- beta (1 + 0.1 e).

    A step without a measured KL leaves it as it is.

    >>> adapted(1.0, 0.5, [5.0])  # far too far: 2 % more
    1.02
    >>> adapted(1.0, 0.5, [0.5, None])
    1.0
    """
    beta = first
    for kl in measured:
        if kl is not None:
            beta *= 1 + GAIN * max(-MOST, min(MOST, (kl - target) / target))
    return beta


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """The KL to the reference in training. Its term has the coefficient `first` (0: none); with a `target` it
    follows the KLs on record (`adapted`). `in_reward`: the term is taken off the reward, not added to the
    loss. `references` gives the reference's log-probs of a step's trajectories (reference.py)."""

    references: References
    history: Callable[[], Sequence[StepMetrics]]
    first: float = 0.0
    target: float | None = None
    estimator: str = "k3"
    in_reward: bool = False

    def coefficient(self, step: int) -> float:
        """In force in `step`. Only the steps before decide, so a resumed run has that of the unbroken one."""
        if self.target is None:
            return self.first
        before = {m.step: m.kl for m in self.history() if m.step < step}
        return adapted(self.first, self.target, (before[s] for s in sorted(before)))

    def penalties(self, groups: Sequence[Sequence[Trajectory]], step: int) -> list[list[float]] | None:
        """What is taken off each member's reward: the coefficient times the KL summed over its tokens; None
        where nothing is."""
        if not (self.in_reward and self.first > 0):
            return None
        known = self.references.of([t for group in groups for t in group])
        beta = self.coefficient(step)
        return [
            [beta * float(kl.sum()) for kl in kl_per_token(group, known, self.estimator)] for group in groups
        ]

    def in_loss(self, groups: Sequence[Group]) -> Mapping[MemberKey, tuple[float, ...]] | None:
        """The reference's log-probs for the loss; None where it has no KL term."""
        if self.in_reward or self.first == 0:
            return None
        return self.references.of([t for g in groups for t in g.trajectories])

    def measured(self, groups: Sequence[Group]) -> float | None:
        """The mean in nats a token, before the update: over all completions where there is a KL term, else
        over a few, so that the drift is seen in any case; None where no reference is at hand."""
        members = [t for g in groups for t in g.trajectories]
        if self.first == 0:
            if not self.references.at_hand:
                return None
            # The first members of different groups: their prompts differ.
            members = [g.trajectories[0] for g in groups][:PROBE_ROWS]
        known = self.references.of(members)
        return float(torch.cat(kl_per_token(members, known, self.estimator)).mean())


def kl_per_token(
    trajectories: Sequence[Trajectory], references: Mapping[MemberKey, tuple[float, ...]], estimator: str
) -> list[torch.Tensor]:
    """For each trajectory the KL estimates of its sampled tokens, [n], from the sampler's log-probs."""
    return [
        kl_terms(
            torch.tensor(sampled_logprobs(t)), torch.tensor(references[t.prompt_id, t.member]), estimator
        )
        for t in trajectories
    ]
