"""The learner whose backward pass and optimizer are a service's. Losses stay here, all of them by one way:

    forward (there) -> log-probs l -> the loss L(l) and its slopes dL/dl (here)
    -> forward_backward (there) of the loss -sum exp(l' - l) (-dL/dl), whose gradient at l' = l is that of L
    -> optim_step (there)

So a service needs to know nothing of surrogates, weights, KL terms or truncated importance weights; it costs
a forward pass more than a loss of its own would.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from refine_rl.engines.tinker.weights import Adapter, Slopes
from refine_rl.errors import GuardStop, MachineError
from refine_rl.progress import Pause, never
from refine_rl.training import checkpoint
from refine_rl.training.check import Check, require_finite
from refine_rl.training.checkpoint import DamagedCheckpoint, Position
from refine_rl.training.learner import Learned, LearnerConfig, Objective
from refine_rl.training.rows import MicroBatch, Row, micro_batch, micro_batches

STATE = "service.json"
"""Where a checkpoint says which state of the service's it is."""
STATES = "service-states.txt"
"""Beside the checkpoints of a run: all states that the service keeps for them, a path a line. A checkpoint
may go without a word to the service; its state is found here then."""


@dataclass(frozen=True, kw_only=True)
class TinkerLearner:
    """Moves the adapter at a service."""

    weights: Adapter
    check: Check
    config: LearnerConfig

    @property
    def whole(self) -> bool:
        """Whether the weights are known to be those between two steps, and the service still listens."""
        return self.weights.whole and not self.weights.service.gone

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
        if seen is None and sampled and not any(r.sampled for r in worked):
            seen = self.check.compare(sampled, step)
        if not worked:
            return Learned(loss=None, grad_norm=None, clip_share=None, seen=seen, apart=None)
        chunks = self._chunks(worked)
        losses: list[float] = []
        norms: list[float] = []
        clipped = 0
        starts: list[torch.Tensor] = []  # log-probs [B, T] before any weight moved
        apart = torch.zeros(0)
        for update in range(updates):
            found = self._slopes(chunks, objective, starts, pause)
            losses.append(sum(f.loss for f in found))
            clipped += sum(f.clipped_tokens for f in found)
            size = float(torch.stack([f.slopes.slopes_B_T.norm() for f in found]).norm())
            require_finite(losses[-1], size, step, self.config.table)
            if not starts:
                starts = [f.slopes.now_B_T for f in found]
                masks = [chunk.tokens.sampled for chunk in chunks]
                olds = [chunk.old_B_T for chunk in chunks]
                parts = zip(starts, olds, masks, strict=True)
                apart = torch.cat([(start - old)[mask] for start, old, mask in parts])
                if seen is None and sampled:
                    seen = apart.abs()
                    self.check.require_match([r.trajectory for r in worked], seen, step)
            self.weights.gradient([f.slopes for f in found], pause)
            norms += self._moved(rate, step, last=update == updates - 1)
        tokens = sum(r.trajectory.completion_tokens for r in worked) * len(losses)
        return Learned(
            loss=losses[0],
            grad_norm=max(norms, default=None),
            clip_share=clipped / tokens if tokens else None,
            seen=seen,
            apart=apart,
        )

    def _chunks(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """The micro-batches of an update."""
        chunks = micro_batches([r.trajectory for r in rows], self.config.tokens)
        return [micro_batch([rows[i] for i in chunk], torch.device("cpu")) for chunk in chunks]

    def _slopes(
        self, chunks: Sequence[MicroBatch], objective: Objective, starts: Sequence[torch.Tensor], pause: Pause
    ) -> list[_Part]:
        """What the loss is and where it leads, for each micro-batch. No gradient is asked for yet: what is
        found here may forbid it."""
        found = []
        before: Sequence[torch.Tensor | None] = starts or [None] * len(chunks)
        given = self.weights.logprobs_each([chunk.tokens for chunk in chunks], pause)
        for chunk, now, start in zip(chunks, given, before, strict=True):
            sums = objective(now.requires_grad_(True), chunk, start)
            (slopes_B_T,) = torch.autograd.grad(sums.loss, now)
            slopes = Slopes(batch=chunk.tokens, now_B_T=now.detach(), slopes_B_T=slopes_B_T)
            found.append(_Part(loss=sums.loss.item(), clipped_tokens=sums.clipped_tokens, slopes=slopes))
        return found

    def _moved(self, rate: float, step: int, *, last: bool) -> list[float]:
        """A step of the optimizer; the gradient's norm, where the service says it."""
        norm = self.weights.step(
            rate=rate,
            weight_decay=self.config.weight_decay,
            max_norm=self.config.max_grad_norm,
            last=last,
        )
        if norm is None:
            return []
        try:
            require_finite(0.0, norm, step, self.config.table)
        except GuardStop as stop:
            # The service has moved the weights by it before it said so.
            self.weights.whole = False
            what = f"Step {step}: the gradient's norm at the service is {norm}; its weights are lost."
            advice = f"Go back to the last checkpoint, with a lower {self.config.table}.learning_rate."
            raise GuardStop(stop.guard, what, advice) from stop
        return [norm]

    def save(self, folder: Path, position: Position) -> None:
        """The service keeps the state; the checkpoint says where, and the list beside it."""
        if not self.whole:
            raise MachineError("The weights at the service are not those of a whole step: they are not kept.")
        address = self.weights.service.address
        path = self.weights.save(f"step-{position.step:06d}")
        with (folder.parent / STATES).open("a", encoding="utf-8") as states:
            states.write(f"{path}\n")
        record = {"state": path, "base_url": address.url, "model": address.model, "rank": self.weights.rank}
        (folder / STATE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        checkpoint.seal(folder, position, [STATE])

    def keep_only(self, checkpoints: Sequence[Path]) -> None:
        """The service may let go of all states but theirs: each takes room there, which may cost. That of a
        checkpoint which was gone back on or set aside is known from the list beside them."""
        if not checkpoints or self.weights.service.gone:
            return
        with contextlib.suppress(DamagedCheckpoint, OSError):  # then they stay
            kept = list(map(state_in, checkpoints))
            states = checkpoints[0].parent / STATES
            lost = sorted(set(states.read_text(encoding="utf-8").splitlines()) - {*kept})
            if lost:
                self.weights.forget(lost)
                states.write_text("".join(f"{path}\n" for path in kept), encoding="utf-8")

    def load(self, folder: Path) -> Position:
        """Puts the state back, the optimizer's with it."""
        position = checkpoint.check(folder)
        self.weights.restore(state_in(folder), optimizer=True)
        return position


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What the loss made of a micro-batch: its share, and what is sent back."""

    loss: float
    clipped_tokens: int
    slopes: Slopes


def state_in(folder: Path) -> str:
    """The path at the service of a checkpoint's state. Raises DamagedCheckpoint."""
    try:
        return str(json.loads((folder / STATE).read_bytes())["state"])
    except FileNotFoundError:
        raise DamagedCheckpoint(
            f"{folder} is no checkpoint of a Tinker service: {STATE} is missing. [engine] must not change."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{folder / STATE} is cut or changed.") from error
