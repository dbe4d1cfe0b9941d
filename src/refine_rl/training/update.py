"""The course of an update, whoever computes it: gradients of rows, looked at before a weight moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

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


class Worker(Protocol):
    """Whoever holds the weights: one process, or several that share the rows."""

    def take(self, rows: Sequence[Row]) -> None:
        """The rows of the gradients that follow."""

    def gradient(self, objective: Objective, step: int, update: int, pause: Pause) -> Found:
        """The gradient of all rows, kept until `move`. `pause` is called between micro-batches."""

    def clipped_norm(self) -> float:
        """The gradient's norm; a larger one than allowed is scaled down."""

    def move(self, rate: float) -> None:
        """An optimizer step along it."""

    def rest(self) -> None:
        """The update is over: rows and gradient are let go."""


def learn(
    worker: Worker,
    check: Check,
    rows: Sequence[Row],
    objective: Objective,
    *,
    step: int,
    rate: float,
    updates: int,
    seen: torch.Tensor | None,
    pause: Pause,
    drops: bool,
    table: str,
) -> Learned:
    """See `Learner`. The log-probs of the rollouts stay the old ones throughout. `drops`: there is dropout;
    `table` of the settings has the learning rate, for words."""
    worked = [r for r in rows if r.teaches]
    sampled = [r.trajectory for r in rows if r.sampled]
    compared = not drops and any(r.sampled for r in worked)
    if seen is None and sampled and not compared:
        # The training pass cannot give the comparison: there is none, or dropout disturbs it.
        seen = check.compare(sampled, step)
    losses: list[float] = []
    norms: list[float] = []
    clipped = 0
    apart: torch.Tensor | None = None
    if worked:
        worker.take(worked)
    for update in range(updates if worked else 0):
        # Where a weight has moved it is too late to leave.
        found = worker.gradient(objective, step, update, never if update else pause)
        norms.append(worker.clipped_norm())
        losses.append(found.loss)
        clipped += found.clipped_tokens
        require_finite(losses[-1], norms[-1], step, table)
        if apart is None:
            apart = found.apart
            if seen is None and compared:
                seen = apart.abs()
                check.require_match([r.trajectory for r in worked], seen, step)
        worker.move(rate)
    worker.rest()
    tokens = sum(r.trajectory.completion_tokens for r in worked) * len(losses)
    return Learned(
        loss=losses[0] if losses else None,
        grad_norm=max(norms, default=None),
        clip_share=clipped / tokens if tokens else None,
        seen=seen,
        apart=apart,
    )
