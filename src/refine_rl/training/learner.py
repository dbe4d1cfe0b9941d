"""What a Learner is: rows in, a better policy out. It owns the backward pass, clipping, the optimizer, and
its checkpoint; one process of our own (local.py) is one, several processes or a service are others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from refine_rl.progress import Pause
from refine_rl.training.check import Check
from refine_rl.training.checkpoint import Position
from refine_rl.training.passes import ONCE, Passes
from refine_rl.training.rows import MicroBatch, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums:
    """Sums over the tokens of one micro-batch; the caller divides by its own token count."""

    loss: torch.Tensor  # scalar, with gradient
    clipped_tokens: (
        int  # tokens on which the clip acted: it took their gradient, or ("cispo") cut their weight
    )


Objective = Callable[[torch.Tensor, MicroBatch, "torch.Tensor | None"], LossSums]
"""(log-probs now [B, T], the rows, their log-probs before any weight moved where that is over) -> loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What an update saw. None: not measurable in this one."""

    loss: float | None  # of the first optimizer step
    grad_norm: float | None  # the largest, before clipping
    clip_share: float | None
    seen: torch.Tensor | None  # |trainer - sampler| in nats, [N], before any weight moved
    apart: (
        torch.Tensor | None
    )  # trainer - sampler of the tokens that the first optimizer step worked, [N], before any weight moved
    updates: int = 0  # optimizer steps
    moved: float | None = None  # K (passes.py) when it was last measured; None where one step was enough


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How weights are moved. `temperature` and `allowed` are those of the check (check.py); `tokens` go
    through the model at once; `dropout` is the adapter's; `table` of the settings has the learning rate, for
    words."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens: int
    dropout: float = 0.0
    seed: int = 0
    temperature: float = 1.0
    allowed: float | None = None
    table: Literal["grpo", "sft"] = "grpo"


class Learner(Protocol):
    """Moves a policy's weights."""

    @property
    def check(self) -> Check:
        """The comparison of the sampler with this learner."""

    @property
    def whole(self) -> bool:
        """Whether the weights are known to be those between two steps, so that `save` may keep them when
        training is broken off."""

    def learn(
        self,
        rows: Sequence[Row],
        objective: Objective,
        *,
        step: int,
        rate: float,
        passes: Passes = ONCE,
        seen: torch.Tensor | None = None,
        pause: Pause,
    ) -> Learned:
        """Optimizer steps at the learning rate `rate`, as `passes` has them.

        `seen` is the comparison of sampler and trainer where it was made when the rows were sampled, with
        weights that have moved since; else it is made here, where a sampler had a part in the rows. `pause`
        may raise as long as no weight has moved.
        Raises GuardStop on a mismatch of sampler and trainer, and on a loss or gradient that is not finite,
        before it moves a weight.
        """

    def save(self, folder: Path, position: Position) -> None:
        """Fills an empty folder with the state of training."""

    def keep_only(self, checkpoints: Sequence[Path]) -> None:
        """All checkpoints that a run has by now, beside each other: what earlier ones have elsewhere goes."""

    def load(self, folder: Path) -> Position:
        """Puts that state back, to the bit."""
