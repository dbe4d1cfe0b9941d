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
from refine_rl.training.passes import ONCE, Passes
from refine_rl.training.rows import MicroBatch, Row, micro_batch, micro_batches
from refine_rl.training.update import Course

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
        passes: Passes = ONCE,
        seen: torch.Tensor | None = None,
        pause: Pause = never,
    ) -> Learned:
        """See `Learner`. The log-probs of the rollouts stay the old ones throughout."""
        batches = passes.batches(rows, step)
        fresh = [r.trajectory for r in rows if r.fresh]
        first = [r.trajectory for r in batches[0] if r.fresh] if batches else []
        if seen is None and fresh and not first:
            seen = self.check.compare(fresh, step)
        course, apart, taken = Course(), None, None
        chunks: list[MicroBatch] = []
        starts: list[torch.Tensor] = []  # log-probs [B, T] before any weight moved
        for update, batch in enumerate(batches):
            if batch is not taken:
                taken, chunks, starts = batch, self._chunks(batch), []
            found = self._slopes(chunks, objective, starts, pause)
            starts = starts or [f.slopes.now_B_T for f in found]
            here = _apart(chunks, [f.slopes.now_B_T for f in found])
            if course.over(passes, here):
                break
            course.stepped(batch, sum(f.loss for f in found), sum(f.clipped_tokens for f in found))
            size = float(torch.stack([f.slopes.slopes_B_T.norm() for f in found]).norm())
            require_finite(course.losses[-1], size, step, self.config.table)
            if apart is None:
                apart = here
                if seen is None and first:
                    seen = apart.abs()
                    self.check.require_match(first, seen, step)
            self.weights.gradient([f.slopes for f in found], pause)
            course.norms += self._moved(rate, step, last=update == len(batches) - 1)
        if course.losses:
            self.weights.whole = True  # also where fewer optimizer steps were made than might have been
        return course.learned(seen, apart)

    def _chunks(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """The micro-batches in which the loss of an update is computed here, and padded; the service gets
        their rows in requests of its own measure."""
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


def _apart(chunks: Sequence[MicroBatch], now: Sequence[torch.Tensor]) -> torch.Tensor:
    """Trainer - sampler of the tokens that the step sampled, [N]."""
    pairs = zip(chunks, now, strict=True)
    return torch.cat([(now_B_T - chunk.old_B_T)[chunk.fresh] for chunk, now_B_T in pairs])


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
