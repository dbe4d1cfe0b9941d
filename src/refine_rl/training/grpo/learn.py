"""One step's update: scored groups in, a better policy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from refine_rl.progress import Pause, never
from refine_rl.training.grpo.importance import weights
from refine_rl.training.grpo.kl import Distance
from refine_rl.training.grpo.loss import policy_loss, row_weights
from refine_rl.training.grpo.statistics import group_statistics
from refine_rl.training.learner import Learned, Learner, LossSums, Objective
from refine_rl.training.rate import Rate
from refine_rl.training.rows import MemberKey, MicroBatch, Row
from refine_rl.types import Group, StepMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """The loss called `name` (loss.py), as a learner's objective. With `importance_cap` the ratio is of the
    log-probs now to those before the step's updates, and importance.py corrects for the sampler."""

    name: str
    clip_low: float
    clip_high: float
    max_tokens: int
    kl_estimator: str = "k3"
    importance_cap: float | None = None

    def rows(
        self, groups: Sequence[Group], references: Mapping[MemberKey, tuple[float, ...]] | None = None
    ) -> list[Row]:
        """The rows of a step, in the order of groups and members: those that have an advantage."""
        members = [
            (t, a) for g in groups for t, a in zip(g.trajectories, g.advantages, strict=True) if a is not None
        ]
        if not members:
            return []
        lengths = [t.completion_tokens for t, _ in members]
        return [
            Row(
                trajectory=t,
                advantage=a,
                weight=w,
                reference=None if references is None else references[t.prompt_id, t.member],
            )
            for (t, a), w in zip(
                members, row_weights(self.name, lengths, max_tokens=self.max_tokens), strict=True
            )
        ]

    def objective(self, kl: float) -> Objective:
        """With the KL coefficient `kl`."""
        return PolicyLoss(loss=self, kl=kl)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLoss:
    """A loss with the KL coefficient of a step: an objective that another process can be sent."""

    loss: Loss
    kl: float

    def __call__(self, new_B_T: torch.Tensor, batch: MicroBatch, start_B_T: torch.Tensor | None) -> LossSums:
        """See `Objective`."""
        how, old, importance = self.loss, batch.old_B_T, None
        if how.importance_cap is not None:
            old = new_B_T.detach() if start_B_T is None else start_B_T
            importance = weights(old, batch.old_B_T).clamp(max=how.importance_cap)
        return policy_loss(
            new_B_T,
            old,
            batch.advantages_B,
            batch.weights_B,
            batch.tokens.trainable.to(new_B_T.device),
            loss=how.name,
            clip_low=how.clip_low,
            clip_high=how.clip_high,
            reference_B_T=batch.reference_B_T,
            kl=self.kl,
            kl_estimator=how.kl_estimator,
            importance_B_T=importance,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What became of a step's groups."""

    learned: Learned
    kl: float | None
    kl_coefficient: float
    learning_rate: float
    importance: torch.Tensor | None  # weights before they are cut, [N]; None without a cap


@dataclass(frozen=True, kw_only=True, slots=True)
class Learn:
    """`learn(groups, step)`: what the loop, a replay and a benchmark call."""

    learner: Learner
    loss: Loss
    distance: Distance
    rate: Rate
    updates: int = 1
    pause: Pause = never

    def __call__(self, groups: Sequence[Group], step: int, *, seen: torch.Tensor | None = None) -> Update:
        """Moves the weights; raises what `Learner.learn` raises."""
        references = self.distance.in_loss(groups)
        kl, beta, rate = (
            self.distance.measured(groups),
            self.distance.coefficient(step),
            self.rate(step),
        )
        learned = self.learner.learn(
            self.loss.rows(groups, references),
            self.loss.objective(beta),
            step=step,
            rate=rate,
            updates=self.updates,
            seen=seen,
            pause=self.pause,
        )
        capped = self.loss.importance_cap is not None
        importance = learned.apart.exp() if capped and learned.apart is not None else None
        return Update(learned=learned, kl=kl, kl_coefficient=beta, learning_rate=rate, importance=importance)


def step_metrics(
    step: int, groups: Sequence[Group], update: Update, seconds: Mapping[str, float], cost: float | None
) -> StepMetrics:
    """The line of a step: what its groups were, what the update made of them, and what both took."""
    learned, total = update.learned, sum(seconds.values())
    tokens = sum(t.completion_tokens for g in groups for t in g.trajectories)
    return StepMetrics(
        step=step,
        loss=learned.loss,
        kl=update.kl,
        kl_coefficient=update.kl_coefficient,
        grad_norm=learned.grad_norm,
        learning_rate=update.learning_rate,
        seconds={**seconds, "total": total},
        tokens_per_second=tokens / total,
        cost_usd=cost,
        clip_share=learned.clip_share,
        mismatch_mean=None if learned.seen is None else float(learned.seen.mean()),
        mismatch_max=None if learned.seen is None else float(learned.seen.max()),
        importance_mean=None if update.importance is None else float(update.importance.mean()),
        importance_max=None if update.importance is None else float(update.importance.max()),
        **group_statistics(groups),  # type: ignore[arg-type]
    )
