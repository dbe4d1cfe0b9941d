"""The record of supervised fine-tuning over a run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping

from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.training.checkpoint import Position
from refine_rl.training.learner import Learner
from refine_rl.types import SFTMetrics


class SFTRecord:
    """Writes what the loop tells, and remembers what an earlier process had recorded already. It keeps the
    newest `keep_newest` checkpoints, and the best."""

    def __init__(
        self, run: RunFolder, learner: Learner, journal: Journal, *, steps: int, keep_newest: int
    ) -> None:
        self._run, self._learner, self._journal = run, learner, journal
        self._all, self._keep_newest = steps, keep_newest
        self._steps = len(run.metrics())
        self._looks = {look["step"]: float(look["loss"]) for look in run.validation()}

    def steps(self) -> int:
        return self._steps

    def looks(self) -> Mapping[int, float]:
        return self._looks

    def look(self, step: int, loss: float) -> None:
        self._looks[step] = loss
        self._run.validation.append({"step": step, "loss": loss, "perplexity": math.exp(min(loss, 700.0))})
        if step == 0:
            self._journal.observer.note(f"before training: validation loss {loss:.4f}")
            self._journal.kept(step)

    def step(self, metrics: SFTMetrics) -> None:
        self._steps = metrics.step
        self._journal.step(metrics, self._all)

    def note(self, step: int, name: str, text: str) -> None:
        self._journal.note(name, text, step, once=True)

    def checkpoint(self, position: Position, *, best: bool) -> None:
        step = position.step
        if step not in self._run.checkpoints():
            with self._run.timed("checkpoint", step):
                self._run.write_checkpoint(step, lambda folder: self._learner.save(folder, position))
        if best:
            self._journal.event("best", "validation", f"validation loss {self._looks[step]:.5g}", step)
        left = self._run.prune_checkpoints(keep_newest=self._keep_newest, keep={position.best_step})
        self._learner.keep_only(left)
        self._journal.kept(step)
