"""The learner of one process: micro-batches side by side on a processor's cores, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from refine_rl.errors import MachineError
from refine_rl.policy.protocol import Speaker
from refine_rl.progress import Pause, never
from refine_rl.randomness import torch_seed
from refine_rl.training import checkpoint
from refine_rl.training.check import Check, require_finite
from refine_rl.training.checkpoint import Position
from refine_rl.training.lanes import Gradients, in_lanes, lanes_of
from refine_rl.training.learner import Learned, LearnerConfig, LossSums, Objective
from refine_rl.training.muon import muon
from refine_rl.training.rows import Row, length, micro_batch, micro_batches


def adamw(speaker: Speaker, *, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """Over the trainable parameters, in the order of their names; a learner sets the rate of each step."""
    return torch.optim.AdamW(_parameters(speaker), weight_decay=weight_decay)


def _parameters(speaker: Speaker) -> list[nn.Parameter]:
    return [p for _, p in sorted(speaker.trainable().items())]


@dataclass(kw_only=True)
class LocalLearner:
    """`check` compares sampler and trainer; `tokens` go through the model at once, in all lanes together;
    `dropout` draws from (seed, step, update, micro-batch). `table` is the table of the settings that has the
    learning rate, for words."""

    speaker: Speaker
    optimizer: torch.optim.Optimizer
    check: Check
    tokens: int
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    seed: int = 0
    table: str = "grpo"

    @property
    def whole(self) -> bool:
        """A step whose update is broken off has moved no weight, where it has one update."""
        return True

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
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        worked = [r for r in rows if r.teaches]
        sampled = [r.trajectory for r in rows if r.sampled]
        compared = self.dropout == 0 and any(r.sampled for r in worked)
        if seen is None and sampled and not compared:
            # The training pass cannot give the comparison: there is none, or dropout disturbs it.
            seen = self.check.compare(sampled, step)
        lanes = lanes_of(self.speaker)
        # The lanes' micro-batches are in memory at once.
        packed = self.speaker.shares_prompts
        chunks = list(micro_batches([r.trajectory for r in worked], self.tokens // lanes, packed=packed))
        losses: list[float] = []
        norms: list[float] = []
        clipped = 0
        first: list[_Part] = []
        for update in range(updates if worked else 0):
            some = [[worked[i] for i in chunk] for chunk in chunks]
            starts = [p.new_B_T for p in first] if first else [None] * len(chunks)
            try:
                parts = self._backward(some, starts, objective, lanes, (step, update), pause)
            except torch.OutOfMemoryError as error:
                raise MachineError(self._too_many(some)) from error
            first = first or parts
            norms.append(self._clipped_norm())
            losses.append(sum(p.sums.loss.item() for p in parts))
            clipped += sum(p.sums.clipped_tokens for p in parts)
            require_finite(losses[-1], norms[-1], step, self.table)
            if seen is None and compared:
                seen = torch.cat([p.new_minus_old for p in parts]).abs()
                self.check.require_match([r.trajectory for r in worked], seen, step)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(r.trajectory.completion_tokens for r in worked) * len(losses)
        return Learned(
            loss=losses[0] if losses else None,
            grad_norm=max(norms, default=None),
            clip_share=clipped / tokens if tokens else None,
            seen=seen,
            apart=torch.cat([p.new_minus_old for p in first]) if first else None,
        )

    def save(self, folder: Path, position: Position) -> None:
        checkpoint.save(folder, self.speaker, self.optimizer, position)

    def load(self, folder: Path) -> Position:
        return checkpoint.load(folder, self.speaker, self.optimizer)

    def _backward(
        self,
        chunks: Sequence[Sequence[Row]],
        starts: Sequence[torch.Tensor | None],
        objective: Objective,
        lanes: int,
        key: tuple[int, int],
        pause: Pause,
    ) -> list[_Part]:
        """The gradient of all micro-batches, in the parameters' `grad`. `starts` are the log-probs with which
        the step's update began, where that is over."""
        self.optimizer.zero_grad(set_to_none=True)
        gradients = Gradients(_parameters(self.speaker), lanes)

        def work(n: int, lane: int) -> _Part:
            if key[1] == 0 and lane == 0:
                pause()
            part = self._forward(chunks[n], starts[n], objective, (*key, n))
            gradients.add(lane, part.sums.loss)
            return part.detached()

        parts = in_lanes(work, len(chunks), lanes)
        gradients.hand_over()
        return parts

    def _too_many(self, chunks: Sequence[Sequence[Row]]) -> str:
        """What to do where the memory did not hold a micro-batch. It is not halved unasked: a run has one
        number, which stands in its settings, or it could not be made again to the bit."""
        longest = max(length(row.trajectory) for some in chunks for row in some)
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
        mask = batch.tokens.sampled.to(self.speaker.device)
        with self.speaker.dropout(self.dropout, torch_seed(self.seed, "dropout", *key)):
            new = self.speaker.logprobs(batch.tokens, temperature=self.check.temperature)
            sums = objective(new, batch, start_B_T)
        new_minus_old = (new.detach() - batch.old_B_T)[mask]
        return _Part(sums=sums, new_B_T=new.detach(), new_minus_old=new_minus_old)

    def _clipped_norm(self) -> float:
        """The gradient's norm; a larger one than allowed is scaled down."""
        return float(nn.utils.clip_grad_norm_(_parameters(self.speaker), self.max_grad_norm))


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
    """What a micro-batch gave: its share of the loss, the log-probs [B, T], and new - old of its sampled
    tokens, [N]."""

    sums: LossSums
    new_B_T: torch.Tensor
    new_minus_old: torch.Tensor

    def detached(self) -> _Part:
        """Without the graph, which is large."""
        return replace(self, sums=replace(self.sums, loss=self.sums.loss.detach()))
