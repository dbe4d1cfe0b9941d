"""What follows a step of supervised fine-tuning: a look at the validation rows, the record, checkpoints, and
when it is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from refine_rl.training.check import require_finite
from refine_rl.training.checkpoint import Position
from refine_rl.training.guards import require_hours
from refine_rl.types import SFTMetrics


class Record(Protocol):
    """Of one run. A step that it has already is never told to it a second time."""

    def steps(self) -> int:
        """The last step that is on record."""

    def looks(self) -> Mapping[int, float]:
        """The validation losses so far, by step."""

    def look(self, step: int, loss: float) -> None:
        """A look at the validation rows."""

    def step(self, metrics: SFTMetrics) -> None:
        """A whole step."""

    def note(self, step: int, name: str, text: str) -> None:
        """What is good to know."""

    def checkpoint(self, position: Position, *, best: bool) -> None:
        """The state of training; `best`: on the validation rows, so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeper:
    """Of a training from `start` to `steps`. `validate()` gives the loss on the validation rows. A position's
    `best_reward` is the mean log-prob of a token there: the loss with the other sign. `whole()`: the weights
    are those of a whole step, so that they may be kept when training is broken off."""

    record: Record
    start: Position
    steps: int
    checkpoint_every: int = 1
    validate: Callable[[], float] | None = None
    validate_every: int = 0
    patience: int | None = None
    hours: float | None = None
    whole: Callable[[], bool] = lambda: True

    def look(self, step: int) -> float | None:
        """The validation loss of the weights after `step`, where it is time to look; from the record, where
        an earlier process did."""
        due = bool(self.validate_every) and (step % self.validate_every == 0 or step == self.steps)
        if self.validate is None or not due:
            return None
        if (known := self.record.looks().get(step)) is not None:
            return known
        loss = self.validate()
        require_finite(loss, 0.0, step, "sft")
        self.record.look(step, loss)
        return loss

    def __call__(self, position: Position, metrics: SFTMetrics) -> Position:
        """Puts a step on record, and its checkpoint where one is due."""
        step, loss = position.step, metrics.validation_loss
        if step > self.record.steps():
            self.record.step(metrics)
        best = loss is not None and (position.best_reward is None or -loss > position.best_reward)
        if best and loss is not None:
            position = replace(position, best_step=step, best_reward=-loss)
        last = step == self.steps or self.over(position)
        if best or last or step % self.checkpoint_every == 0:
            self.record.checkpoint(position, best=best)
        return position

    def over(self, position: Position) -> bool:
        """Whether `patience` looks since the best one have found no lower loss; said, once."""
        since = [s for s in self.record.looks() if position.best_step < s <= position.step]
        if self.patience is None or not position.best_step or len(since) < self.patience:
            return False
        why = (
            f"The validation loss was lowest at step {position.best_step}: training ended after "
            f"{position.step} steps."
        )
        self.record.note(position.step, "done_early", why)
        return True

    def require_hours(self, position: Position) -> None:
        """Raises GuardStop where the hours are used up and steps are left."""
        require_hours(self.hours, position, self.steps)

    def broken_off(self, position: Position) -> None:
        """Keeps the last whole step. (A step whose look at the validation rows failed is not on record.)"""
        if self.start.step < position.step <= self.record.steps() and self.whole():
            self.record.checkpoint(position, best=False)
