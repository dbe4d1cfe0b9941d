"""What follows a step: guards, validation, checkpoints, the budget of hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from refine_rl.errors import GuardStop
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.record import Record
from refine_rl.training.guards import Guards, at_the_top, require_hours, warnings
from refine_rl.types import StepMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeper:
    """Of a training from `start` to `steps`. `validate(step)` gives the mean reward on the validation
    prompts; `whole()`: the weights are those of a whole step, so that they may be kept when training is
    broken off. `weights` are those of the reward's components; `ended(step)` is another reason why training
    is over before a step, "" where there is none."""

    record: Record
    start: Position
    steps: int
    checkpoint_every: int = 1
    validate: Callable[[int], float] | None = None
    validate_every: int = 0
    hours: float | None = None
    guards: Guards
    weights: Mapping[str, float] = field(default_factory=dict)
    whole: Callable[[], bool] = lambda: True
    ended: Callable[[int], str] = lambda step: ""

    def over(self, step: int) -> bool:
        """Whether nothing is left to win before `step`, or to be had from going on; said, once."""
        past = [m for m in self.record.history() if m.step < step]
        why = self.ended(step)
        if at_the_top(past, self.weights):
            why = f"Every answer earns the full reward: training ended after {step - 1} steps."
        if not why:
            return False
        self.record.note(step - 1, "done_early", why)
        return True

    def step(self, metrics: StepMetrics) -> None:
        """Puts a step on record, unless it is there, and looks at where training is going. Raises GuardStop
        where going on would waste hours."""
        if any(m.step == metrics.step for m in self.record.history()):
            return
        self.record.step(metrics)
        for name, text in warnings(self.record.history()).items():
            self.record.warning(metrics.step, name, text)
        self.guards.stop(self.record.history())

    def __call__(self, position: Position, *, last: bool) -> Position:
        """Validates and checkpoints where it is time to."""
        step, best = position.step, False
        if self.validate is not None and self.validate_every and (step % self.validate_every == 0 or last):
            reward = self._validated(self.validate, step, last=last)
            best = reward is not None and (position.best_reward is None or reward > position.best_reward)
            if best:
                position = replace(position, best_step=step, best_reward=reward)
        position = replace(position, kept=step)
        if best or last or step % self.checkpoint_every == 0:
            self.record.checkpoint(position, best=best)
        return position

    def require_hours(self, position: Position) -> None:
        """Raises GuardStop where the hours are used up and steps are left."""
        require_hours(self.hours, position, self.steps)

    def broken_off(self, position: Position) -> None:
        """Keeps the last whole step where its weights still stand. Otherwise (broken off between two
        optimizer steps, or steps sampled ahead by older weights) the last checkpoint and the recorded groups
        lead to the same place."""
        if position.step > self.start.step and self.whole():
            self.record.checkpoint(position, best=False)

    def _validated(self, validate: Callable[[int], float], step: int, *, last: bool) -> float | None:
        """None where too many of its scores are missing and training is over: then that costs a look and not
        the model."""
        try:
            return validate(step)
        except GuardStop as stop:
            if not last or stop.guard != "missing":
                raise
            text = f"{stop.what}The checkpoint is chosen without this look."
            self.record.warning(step, "validation_missing", text)
            return None
