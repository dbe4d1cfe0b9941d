"""The learner of one process: micro-batches side by side on a processor's cores, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from refine_rl.errors import MachineError
from refine_rl.policy.protocol import Speaker
from refine_rl.progress import Pause
from refine_rl.randomness import torch_seed
from refine_rl.training import checkpoint
from refine_rl.training.check import Check
from refine_rl.training.checkpoint import Position
from refine_rl.training.lanes import Gradients, in_lanes, lanes_of
from refine_rl.training.learner import LearnerConfig, LossSums, Objective
from refine_rl.training.muon import muon
from refine_rl.training.rows import Row, length, micro_batch, micro_batches
from refine_rl.training.update import Found, Updating


def adamw(speaker: Speaker, *, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """Over the trainable parameters, in the order of their names; a learner sets the rate of each step."""
    return torch.optim.AdamW(parameters_of(speaker), weight_decay=weight_decay)


def parameters_of(speaker: Speaker) -> list[nn.Parameter]:
    """Those that training changes, in the order of their names: the same in each process."""
    return [p for _, p in sorted(speaker.trainable().items())]


@dataclass(kw_only=True)
class LocalLearner(Updating):
    """`tokens` go through the model at once, in all lanes together; `dropout` draws from (seed, step, update,
    micro-batch). `share`: which part of an update's rows comes here, and of how many; `lanes` are as many as
    the speaker allows, or so many."""

    speaker: Speaker
    optimizer: torch.optim.Optimizer
    tokens: int
    max_grad_norm: float = 1.0
    seed: int = 0
    share: tuple[int, int] = (0, 1)
    lanes: int | None = None
    _chunks: list[list[Row]] = field(default_factory=list)
    _starts: list[torch.Tensor] = field(default_factory=list)  # log-probs [B, T] before any weight moved

    def save(self, folder: Path, position: Position) -> None:
        checkpoint.save(folder, self.speaker, self.optimizer, position)

    def keep_only(self, checkpoints: Sequence[Path]) -> None:
        """It has nothing elsewhere."""

    def load(self, folder: Path) -> Position:
        position = checkpoint.load(folder, self.speaker, self.optimizer)
        self.whole = True
        return position

    def take(self, rows: Sequence[Row]) -> None:
        """See `Updating`."""
        lanes = self._lanes
        # The lanes' micro-batches are in memory at once.
        packed = self.speaker.shares_prompts
        chunks = micro_batches([r.trajectory for r in rows], self.tokens, packed=packed, lanes=lanes)
        self._chunks, self._starts = [[rows[i] for i in chunk] for chunk in chunks], []

    def gradient(self, objective: Objective, step: int, update: int, pause: Pause) -> Found:
        """See `Updating`; in the parameters' `grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        gradients = Gradients(parameters_of(self.speaker), self._lanes)
        starts: Sequence[torch.Tensor | None] = self._starts or [None] * len(self._chunks)

        def work(n: int, lane: int) -> _Part:
            if lane == 0:
                pause()
            place, of = self.share
            part = self._forward(self._chunks[n], starts[n], objective, (step, update, n * of + place))
            gradients.add(lane, part.sums.loss)
            return part.detached()

        try:
            parts = in_lanes(work, len(self._chunks), self._lanes)
        except torch.OutOfMemoryError as error:
            raise MachineError(self._too_many()) from error
        gradients.hand_over()
        self._starts: Sequence[torch.Tensor | None] = self._starts or [p.new_B_T for p in parts]
        return Found(
            loss=sum(p.sums.loss.item() for p in parts),
            clipped_tokens=sum(p.sums.clipped_tokens for p in parts),
            apart=torch.cat([p.new_minus_old for p in parts]) if parts else torch.empty(0),
        )

    def _too_many(self) -> str:
        """What to do where the memory did not hold a micro-batch. It is not halved unasked: a run has one
        number, which stands in its settings, or it could not be made again to the bit."""
        longest = max(length(row.trajectory) for some in self._chunks for row in some)
        if self.tokens <= longest:
            return (
                f"Out of memory in training, with one answer and its prompt of {longest:,} tokens at once: "
                "model.gradient_checkpointing = true needs less, or take shorter answers or a smaller model."
            )
        key = f"{self.table}.tokens_per_micro_batch"
        return (
            f"Out of memory in training, with {self.tokens:,} tokens at once. Fewer at once give the same "
            f"result but for rounding: --set {key}={max(1, self.tokens // 2)}"
        )

    def _forward(
        self,
        rows: Sequence[Row],
        start_B_T: torch.Tensor | None,
        objective: Objective,
        key: tuple[int, int, int],
    ) -> _Part:
        batch = micro_batch(rows, self.speaker.device)
        fresh = batch.fresh.to(self.speaker.device)
        with self.speaker.dropout(self.dropout, torch_seed(self.seed, "dropout", *key)):
            new = self.speaker.logprobs(batch.tokens, temperature=self.check.temperature)
            sums = objective(new, batch, start_B_T)
        new_minus_old = (new.detach() - batch.old_B_T)[fresh]
        return _Part(sums=sums, new_B_T=new.detach(), new_minus_old=new_minus_old)

    def clipped_norm(self) -> float:
        """See `Updating`."""
        return float(nn.utils.clip_grad_norm_(parameters_of(self.speaker), self.max_grad_norm))

    def move(self, rate: float) -> None:
        """See `Updating`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        self.optimizer.step()

    def rest(self) -> None:
        """See `Updating`."""
        self.optimizer.zero_grad(set_to_none=True)
        self._chunks, self._starts = [], []

    @property
    def _lanes(self) -> int:
        return self.lanes or lanes_of(self.speaker)


OPTIMIZERS = {"adamw": adamw, "muon": muon}
"""By their names in the settings."""


def local_learner(speaker: Speaker, config: LearnerConfig) -> LocalLearner:
    """The learner of a model in this process."""
    return LocalLearner(
        speaker=speaker,
        optimizer=OPTIMIZERS[config.optimizer](speaker, weight_decay=config.weight_decay),
        check=Check(speaker=speaker, temperature=config.temperature, allowed=config.allowed),
        tokens=config.tokens,
        max_grad_norm=config.max_grad_norm,
        dropout=config.dropout,
        seed=config.seed,
        table=config.table,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What a micro-batch gave: its share of the loss, the log-probs [B, T], and new - old of the tokens that
    the step sampled, [N]."""

    sums: LossSums
    new_B_T: torch.Tensor
    new_minus_old: torch.Tensor

    def detached(self) -> _Part:
        """Without the graph, which is large."""
        return replace(self, sums=replace(self.sums, loss=self.sums.loss.detach()))
