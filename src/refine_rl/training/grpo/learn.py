"""One step's update: scored groups in, a better policy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from refine_rl.progress import Pause, never
from refine_rl.training.grpo.importance import weights
from refine_rl.training.grpo.kl import Distance
from refine_rl.training.grpo.loss import policy_loss, row_weights
from refine_rl.training.grpo.replay import Again, Replay
from refine_rl.training.grpo.statistics import group_statistics
from refine_rl.training.grpo.teacher import token_advantages
from refine_rl.training.learner import Learned, Learner, LossSums, Objective
from refine_rl.training.passes import ONCE, Passes
from refine_rl.training.rate import Rate
from refine_rl.training.reference import logprobs_of
from refine_rl.training.rows import MemberKey, MicroBatch, Row
from refine_rl.types import Group, StepMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """The loss called `name` (loss.py), as a learner's objective. With `importance_cap` the ratio is of the
    log-probs now to those before the step's updates, and importance.py corrects for the sampler.
    `teacher_share` is a teacher's in the advantages of tokens (teacher.py), where there is one."""

    name: str
    clip_low: float
    clip_high: float
    max_tokens: int
    kl_estimator: str = "k3"
    importance_cap: float | None = None
    teacher_share: float = 1.0

    def rows(
        self,
        groups: Sequence[Group],
        references: Mapping[MemberKey, tuple[float, ...]] | None = None,
        again: Sequence[Again] = (),
    ) -> list[Row]:
        """The rows of a step, in the order of groups and members: those that have an advantage, or a teacher.
        Behind them those of earlier steps that are there `again`."""
        rows = [
            Row(
                trajectory=t,
                advantage=a or 0.0,
                weight=0.0,
                reference=None if references is None else references[t.prompt_id, t.member],
                taught=None if its is None else its.logprobs,
            )
            for g in groups
            for t, a, its in zip(g.trajectories, g.advantages, g.each_taught, strict=True)
            if a is not None or its is not None
        ]
        rows += [Row(trajectory=t, advantage=a, weight=0.0, then=step) for step, t, a in again]
        return self.weighed(rows)

    def weighed(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, with the weights that they have where these and no others are the batch."""
        if not rows:
            return []
        lengths = [r.trajectory.completion_tokens for r in rows]
        weights_B = row_weights(self.name, lengths, max_tokens=self.max_tokens)
        return [replace(row, weight=weight) for row, weight in zip(rows, weights_B, strict=True)]

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
            start_B_T = start_B_T if batch.start_B_T is None else batch.start_B_T
            old = new_B_T.detach() if start_B_T is None else start_B_T
            importance = weights(old, batch.old_B_T).clamp(max=how.importance_cap)
            if batch.replayed_B is not None:
                old = torch.where(batch.replayed_B[:, None], batch.old_B_T, old)
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
            token_advantages_B_T=None
            if batch.taught_B_T is None
            else token_advantages(
                batch.advantages_B, batch.taught_B_T, batch.old_B_T, how.teacher_share, batch.taught_B
            ),
            replayed_B=batch.replayed_B,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What became of a step's groups."""

    learned: Learned
    kl: float | None
    kl_coefficient: float
    learning_rate: float
    importance: torch.Tensor | None  # weights before they are cut, [N]; None without a cap
    replayed: int | None = None  # answers of earlier steps; None where none ever are
    counted: bool = False  # whether its optimizer steps are of a number that no setting tells


@dataclass(frozen=True, kw_only=True, slots=True)
class Learn:
    """`learn(groups, step)`: what the loop, a replay and a benchmark call. `passes` are those of a step;
    `replay` has what earlier steps sampled."""

    learner: Learner
    loss: Loss
    distance: Distance
    rate: Rate
    passes: Passes = ONCE
    replay: Replay | None = None
    pause: Pause = never

    def __call__(self, groups: Sequence[Group], step: int, *, seen: torch.Tensor | None = None) -> Update:
        """Moves the weights; raises what `Learner.learn` raises."""
        references = self.distance.in_loss(groups)
        kl, beta, rate = (
            self.distance.measured(groups),
            self.distance.coefficient(step),
            self.rate(step),
        )
        again = None if self.replay is None else self.replay(groups, step)
        rows, apart = self._started(self.loss.rows(groups, references, again or ()))
        learned = self.learner.learn(
            rows,
            self.loss.objective(beta),
            step=step,
            rate=rate,
            passes=self.passes,
            seen=seen,
            pause=self.pause,
        )
        if self.loss.importance_cap is not None and apart is None:
            apart = learned.apart
        return Update(
            learned=learned,
            kl=kl,
            kl_coefficient=beta,
            learning_rate=rate,
            importance=None if apart is None else apart.exp(),
            replayed=None if again is None else len(again),
            counted=self.passes.counted,
        )

    def _started(self, rows: list[Row]) -> tuple[list[Row], torch.Tensor | None]:
        """Where importance weights are asked for and an optimizer step comes before some rows' first pass,
        the rows with their log-probs of now; and these less the sampler's, [N]."""
        own = [row for row in rows if row.fresh and row.teaches]
        if self.loss.importance_cap is None or self.passes.minibatches == 1 or not own:
            return rows, None
        check, tokens = self.learner.check, self.distance.references.tokens
        known = logprobs_of(
            check.speaker, [r.trajectory for r in own], temperature=check.temperature, tokens=tokens
        )
        found = [
            replace(row, start=known[row.trajectory.prompt_id, row.trajectory.member])
            if row.fresh and row.teaches
            else row
            for row in rows
        ]
        started = [(row.start, row.old) for row in found if row.start is not None]
        now, old = (torch.tensor([x for each in side for x in each]) for side in zip(*started, strict=True))
        return found, now - old


def step_metrics(
    step: int,
    groups: Sequence[Group],
    update: Update,
    seconds: Mapping[str, float],
    cost: float | None,
    more: Mapping[str, object] | None = None,
) -> StepMetrics:
    """The line of a step: what its groups were (and `more` that is known of them), what the update made of
    them, and what both took."""
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
        updates=learned.updates if update.counted else None,
        moved_kl=learned.moved,
        replayed=update.replayed,
        **group_statistics(groups),  # type: ignore[arg-type]
        **(more or {}),  # type: ignore[arg-type]
    )
