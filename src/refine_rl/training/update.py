"""The course of an update, whoever computes it: gradients of rows, looked at before a weight moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from refine_rl.progress import Pause, never
from refine_rl.training.check import Check, require_finite
from refine_rl.training.learner import Learned, Objective
from refine_rl.training.passes import ONCE, Passes, moved_by
from refine_rl.training.rows import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a gradient came of: the loss of all rows, tokens on which the clip acted, and trainer - sampler of
    the tokens that the step sampled, [N]."""

    loss: float
    clipped_tokens: int
    apart: torch.Tensor

    def on_processor(self) -> Found:
        """The same, its tensor on the processor."""
        return replace(self, apart=self.apart.cpu())


@dataclass(kw_only=True, slots=True)
class Course:
    """What an update's optimizer steps have come of so far."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    clipped: int = 0
    tokens: int = 0
    moved: float | None = None

    def stepped(self, rows: Sequence[Row], loss: float, clipped_tokens: int) -> None:
        """One more, on these rows."""
        self.losses.append(loss)
        self.clipped += clipped_tokens
        self.tokens += sum(r.trajectory.completion_tokens for r in rows)

    def over(self, passes: Passes, apart: torch.Tensor) -> bool:
        """Whether the next one is one too many, where its rows' log-probs are `apart` from the sampler's."""
        if passes.kl_stop is None or not self.losses:
            return False
        self.moved = moved_by(apart) if apart.numel() else self.moved
        return passes.over(self.moved)

    def learned(self, seen: torch.Tensor | None, apart: torch.Tensor | None) -> Learned:
        """All of it."""
        return Learned(
            loss=self.losses[0] if self.losses else None,
            grad_norm=max(self.norms, default=None),
            clip_share=self.clipped / self.tokens if self.tokens else None,
            seen=seen,
            apart=apart,
            updates=len(self.losses),
            moved=self.moved,
        )


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
        passes: Passes = ONCE,
        seen: torch.Tensor | None = None,
        pause: Pause = never,
    ) -> Learned:
        """See `Learner`. The log-probs of the rollouts stay the old ones throughout."""
        batches = passes.batches(rows, step)
        fresh = [r.trajectory for r in rows if r.fresh]
        first = [r.trajectory for r in batches[0] if r.fresh] if batches and self.dropout == 0 else []
        if seen is None and fresh and not first:
            # The training pass cannot give the comparison: there is none, or dropout disturbs it.
            seen = self.check.compare(fresh, step)
        if seen is None and fresh:
            self.check.require_followed(fresh, step)
        course, apart, taken = Course(), None, None
        for update, batch in enumerate(batches):
            if batch is not taken:
                self.take(batch)
                taken = batch
            # Where a weight has moved it is too late to leave.
            found = self.gradient(objective, step, update, never if update else pause)
            if course.over(passes, found.apart):
                break
            course.norms.append(self.clipped_norm())
            course.stepped(batch, found.loss, found.clipped_tokens)
            require_finite(found.loss, course.norms[-1], step, self.table)
            if apart is None:
                apart = found.apart
                if seen is None and first:
                    seen = apart.abs()
                    self.check.require_match(first, seen, step)
            self.whole = False
            self.move(rate)
        self.rest()
        self.whole = True
        return course.learned(seen, apart)
