"""One step's update on answers to imitate, and the loss on those that are only looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refine_rl.policy.protocol import Speaker
from refine_rl.policy.tokens import token_batch
from refine_rl.progress import Pause, never
from refine_rl.training.lanes import in_lanes, lanes_of
from refine_rl.training.learner import Learned, Learner
from refine_rl.training.rate import Rate
from refine_rl.training.rows import micro_batches
from refine_rl.training.sft.rows import Order, Tokens, likelihood, rows_of
from refine_rl.types import SFTMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Learn:
    """`learn(step)`: what the loop calls."""

    learner: Learner
    rows: Sequence[Tokens]
    order: Order
    rate: Rate
    pause: Pause = never

    def __call__(self, step: int) -> Learned:
        """Moves the weights; raises what `Learner.learn` raises."""
        return self.learner.learn(
            rows_of(self.of(step)), likelihood, step=step, rate=self.rate(step), pause=self.pause
        )

    def of(self, step: int) -> list[Tokens]:
        """What a step learns from."""
        return [self.rows[place] for place in self.order.rows(step)]

    def metrics(
        self, step: int, learned: Learned, validation_loss: float | None, train: float, total: float
    ) -> SFTMetrics:
        """The line of a step; `train` and `total` are seconds."""
        assert learned.loss is not None
        rows = self.of(step)
        return SFTMetrics(
            step=step,
            loss=learned.loss,
            validation_loss=validation_loss,
            tokens=sum(len(r.ids) for r in rows),
            targets=sum(r.targets for r in rows),
            rows=len(rows),
            epoch=self.order.epochs(step),
            learning_rate=self.rate(step),
            grad_norm=learned.grad_norm,
            seconds={"train": train, "total": total},
        )


@torch.no_grad()
def mean_loss(speaker: Speaker, rows: Sequence[Tokens], tokens: int) -> float:
    """The mean negative log-likelihood of the answers' tokens, nats; without dropout. `tokens` go through the
    model at once."""
    trajectories = [row.trajectory() for row in rows]
    lanes = lanes_of(speaker)
    chunks = list(micro_batches(trajectories, tokens, packed=speaker.shares_prompts, lanes=lanes))

    def work(n: int, lane: int) -> float:
        batch = token_batch([trajectories[i] for i in chunks[n]])
        return float(speaker.logprobs(batch, temperature=1.0).double().sum())

    return -sum(in_lanes(work, len(chunks), lanes)) / sum(row.targets for row in rows)
