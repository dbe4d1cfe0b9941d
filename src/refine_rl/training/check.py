"""Is the sampler the trainer? Every step the trainer's log-probs of sampled tokens, before any weight
has moved, are held against those that the sampler recorded. They must agree up to rounding; where
they do not, the rollouts came from another policy, and training on them would teach noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refine_rl.errors import GuardStop
from refine_rl.evaluate.student import above_zero, slope_above_zero
from refine_rl.policy.protocol import Speaker
from refine_rl.policy.tokens import token_batch
from refine_rl.training.rows import sampled_logprobs
from refine_rl.types import Trajectory

PROBE_ROWS = 4
"""Trajectories that are looked at where no training pass covers them anyway; more where they are short."""
PROBE_TOKENS = 64
"""So many sampled tokens are looked at, where there are as many."""
CHANCE = 0.01
"""How unlikely it must be by chance that the mean difference of all tokens is within the limit: in a few
tokens one of low probability, whose rounding is large, decides the mean."""
WATCHED = 8
"""Trajectories that are asked whether they are the untrained model's: a few tokens cannot say."""
EACH = 8
"""Until this step, and at each multiple of it, it is looked whether the sampler follows the trainer."""
SURE = 1e-6
"""How unlikely it must be by chance that the rollouts are nearer to the untrained weights."""


def difference(speaker: Speaker, trajectories: Sequence[Trajectory], temperature: float) -> torch.Tensor:
    """|log-prob of the trainer - of the sampler| of every sampled token, [N]."""
    return (trainers(speaker, trajectories, temperature) - samplers(trajectories)).abs()


@torch.no_grad()
def trainers(speaker: Speaker, trajectories: Sequence[Trajectory], temperature: float) -> torch.Tensor:
    """The trainer's log-probs of sampled tokens, [N]."""
    batch = token_batch(trajectories)
    return speaker.logprobs(batch, temperature=temperature).cpu()[batch.sampled]


def samplers(trajectories: Sequence[Trajectory]) -> torch.Tensor:
    """The sampler's log-probs of the tokens that it sampled, [N]."""
    return torch.tensor([x for t in trajectories for x in sampled_logprobs(t)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Compares the sampler's log-probs, drawn at `temperature`, with the trainer's. `allowed` is the mean
    difference in nats a token that is let through; without it, the speaker's own tolerance."""

    speaker: Speaker
    temperature: float = 1.0
    allowed: float | None = None

    @property
    def limit(self) -> float:
        return self.speaker.tolerance if self.allowed is None else self.allowed

    def compare(self, trajectories: Sequence[Trajectory], step: int) -> torch.Tensor:
        """`difference` over the first few trajectories, [N]; raises GuardStop where it is too large."""
        found = difference(self.speaker, first_few(trajectories), self.temperature)
        self.require_match(trajectories, found, step)
        return found

    def require_match(self, trajectories: Sequence[Trajectory], found: torch.Tensor, step: int) -> None:
        """Raises GuardStop where the mean of `found` (differences of these trajectories) is too large, and
        not by chance (Student's t): a step of a few short answers has a few dozen tokens."""
        mean = float(found.mean())
        require_finite(0.0, mean, step)
        if mean > self.limit and (len(found) < 2 or above_zero((found - self.limit).tolist()) < CHANCE):
            raise self._mismatch(trajectories, mean, step)

    def require_followed(self, trajectories: Sequence[Trajectory], step: int) -> None:
        """Raises GuardStop where the first few trajectories are surely nearer to the untrained weights than
        to the trainer's, before any weight moves. In the first steps the two are so near to one another that
        the limit, which allows for rounding, sees no difference. But rounding is as far from either: over the
        tokens the slope of ((trainer - sampler) + (untrained - sampler)) / 2 on trainer - untrained, which is
        -1/2 where they are the trainer's and 1/2 where they are the untrained model's, is not above 0 beyond
        chance (Student's t)."""
        if not self.speaker.has_reference or (step > EACH and step % EACH):
            return
        some = [t for t in trajectories if any(s.sampled for s in t.segments)][:WATCHED]
        if not some:
            return
        said = samplers(some)
        own = trainers(self.speaker, some, self.temperature) - said
        with self.speaker.reference() as untrained:
            other = trainers(untrained, some, self.temperature) - said
        moved, middle = (own - other).tolist(), ((own + other) / 2).tolist()
        if slope_above_zero(moved, middle) < SURE:
            raise GuardStop(
                "mismatch",
                f"Step {step}: the rollouts are nearer to the untrained weights "
                f"({float(other.abs().mean()):.4f} nats a token on average) than to the trainer's "
                f"({float(own.abs().mean()):.4f}).",
                "Likely cause: they came from the untrained weights (the adapter was off in the sampler, or "
                "the sampler was not told the new ones). Nothing was learned from these rollouts.",
            )

    def _mismatch(self, trajectories: Sequence[Trajectory], mean: float, step: int) -> GuardStop:
        """The error for a mean difference beyond the limit, with its likely cause."""
        cause = self._cause(first_few(trajectories))
        return GuardStop(
            "mismatch",
            f"Step {step}: sampler and trainer disagree by {mean:.4f} nats a token on average "
            f"(allowed: {self.limit:g}).",
            f"Likely cause: {cause} Nothing was learned from these rollouts. If the difference is rounding, "
            'go on with a higher grpo.mismatch_tolerance, or start anew with model.dtype = "float32".',
            limit=2 * mean,
        )

    def _cause(self, some: Sequence[Trajectory]) -> str:
        if self.speaker.moving:
            return (
                f"the model's positions follow the longest text of a batch ({self.speaker.moving}), so that "
                "log-probs depend on a text's neighbours; policy.hold_still fixes them."
            )
        if self.temperature != 1.0 and float(difference(self.speaker, some, 1.0).mean()) <= self.limit:
            return f"the sampler did not apply the temperature {self.temperature}."
        if self.speaker.has_reference:
            with self.speaker.reference() as untrained:
                if float(difference(untrained, some, self.temperature).mean()) <= self.limit:
                    return (
                        "the rollouts came from the untrained weights (the adapter was off in the sampler)."
                    )
        return "the sampler's weights, number format or prompt tokens are not the trainer's."


def first_few(trajectories: Sequence[Trajectory]) -> Sequence[Trajectory]:
    """PROBE_ROWS of them, and as many more as it takes to have PROBE_TOKENS sampled tokens."""
    tokens = 0
    for n, t in enumerate(trajectories):
        if n >= PROBE_ROWS and tokens >= PROBE_TOKENS:
            return trajectories[:n]
        tokens += sum(len(s.token_ids) for s in t.segments if s.sampled)
    return trajectories


def require_finite(loss: float, norm: float, step: int, table: str = "grpo") -> None:
    """Raises GuardStop unless both are finite. `table` of the settings has the learning rate."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise GuardStop(
            "not_finite",
            f"Step {step}: the loss is {loss} and the gradient's norm {norm}.",
            "No weight was changed by it. Go back to an earlier checkpoint, with a lower "
            f"{table}.learning_rate.",
        )
