"""The course of an update, whoever computes it: gradients of rows, looked at before a weight moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from refine_rl.progress import Pause, never
from refine_rl.training.check import Check, require_finite
from refine_rl.training.learner import Learned, Objective
from refine_rl.training.rows import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a gradient came of: the loss of all rows, tokens on which the clip acted, and trainer - sampler of
    the sampled tokens, [N]."""

    loss: float
    clipped_tokens: int
    apart: torch.Tensor

    def on_processor(self) -> Found:
        """The same, its tensor on the processor."""
        return replace(self, apart=self.apart.cpu())


@dataclass(kw_only=True, eq=False)
class Updating(ABC):
    """A learner, but for who holds the weights and works the gradients: one process, or several that share
    the rows. `check` compares sampler and trainer; `dropout` is the adapter's, which disturbs log-probs;
    `table` of the settings has the learning rate, for words; `whole`: see `Learner`, an update of several
    optimizer steps may break off between two."""

    check: Check
    dropout: float = 0.0
    table: str = "grpo"
    whole: bool = True

    @abstractmethod
    def take(self, rows: Sequence[Row]) -> None:
        """The rows of the gradients that follow."""

    @abstractmethod
    def gradient(self, objective: Objective, step: int, update: int, pause: Pause) -> Found:
        """The gradient of all rows, kept until `move`. `pause` is called between micro-batches."""

    @abstractmethod
    def clipped_norm(self) -> float:
        """The gradient's norm; a larger one than allowed is scaled down."""

    @abstractmethod
    def move(self, rate: float) -> None:
        """An optimizer step along it."""

    @abstractmethod
    def rest(self) -> None:
        """The update is over: rows and gradient are let go."""

    def learn(
        self,
        rows: Sequence[Row],
        objective: Objective,
        *,
        step: int,
        rate: float,
        updates: int = 1,
        seen: torch.Tensor | None = None,
        pause: Pause = never,
    ) -> Learned:
        """See `Learner`. The log-probs of the rollouts stay the old ones throughout."""
        worked = [r for r in rows if r.teaches]
        sampled = [r.trajectory for r in rows if r.sampled]
        compared = self.dropout == 0 and any(r.sampled for r in worked)
        if seen is None and sampled and not compared:
            # The training pass cannot give the comparison: there is none, or dropout disturbs it.
            seen = self.check.compare(sampled, step)
        losses: list[float] = []
        norms: list[float] = []
        clipped = 0
        apart: torch.Tensor | None = None
        if worked:
            self.take(worked)
        for update in range(updates if worked else 0):
            # Where a weight has moved it is too late to leave.
            found = self.gradient(objective, step, update, never if update else pause)
            norms.append(self.clipped_norm())
            losses.append(found.loss)
            clipped += found.clipped_tokens
            require_finite(losses[-1], norms[-1], step, self.table)
            if apart is None:
                apart = found.apart
                if seen is None and compared:
                    seen = apart.abs()
                    self.check.require_match([r.trajectory for r in worked], seen, step)
            self.whole = False
            self.move(rate)
        self.rest()
        self.whole = True
        tokens = sum(r.trajectory.completion_tokens for r in worked) * len(losses)
        return Learned(
            loss=losses[0] if losses else None,
            grad_norm=max(norms, default=None),
            clip_share=clipped / tokens if tokens else None,
            seen=seen,
            apart=apart,
        )
