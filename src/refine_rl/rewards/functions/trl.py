"""What TRL's GRPOTrainer (1.16) gives to a reward function beside prompts, completions and data.

    completion_ids   each completion's own tokens
    trainer_state    how far training is: global_step, max_steps, epoch ...
    log_metric       log_metric("name", number): a curve beside the components
    log_extra        log_extra("column", values): a value for each completion, in the scores' explanations

Validation and comparison score every model as at the end of training: what is compared must be measured
alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import fmean
from typing import Any

from refine_rl.foreign.values import number, show
from refine_rl.rewards.functions.answers import left_out
from refine_rl.types import LOGGED, Score

GIVEN = frozenset({"trainer_state", "log_metric", "log_extra"})
"""Names that a function of the list form gets without the prompt's data."""


@dataclass(kw_only=True, slots=True)
class TrainerState:
    """The part of transformers' TrainerState that is known here. `global_step` are optimizer steps done;
    `epoch` are passes over the training prompts, in parts."""

    global_step: int = 1
    max_steps: int = 1
    epoch: float = 1.0
    num_train_epochs: int = 1
    log_history: list[dict[str, float]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True


_state: ContextVar[TrainerState | None] = ContextVar("refine_trainer_state", default=None)


@contextmanager
def trainer_state(state: TrainerState) -> Iterator[None]:
    """What functions get as `trainer_state` while scoring is begun inside."""
    token = _state.set(state)
    try:
        yield
    finally:
        _state.reset(token)


def state_now() -> TrainerState:
    """A copy: a function may change its own."""
    state = _state.get() or TrainerState()
    return replace(state, log_history=list(state.log_history))


class Notes:
    """What one call of a function logs."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._columns: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: Any) -> None:
        """As TRL's; raises ValueError for what is no finite number."""
        plain = number(value)
        if plain is None:
            raise ValueError(f"log_metric({name!r}, ...) takes a finite number, not {show(value)}")
        self._metrics[str(name)].append(plain)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """As TRL's: a value for each completion; raises ValueError where there are others."""
        entries = list(islice(iter(values), self._count + 1))
        if len(entries) != self._count:
            raise ValueError(f"log_extra({column!r}, ...) takes {self._count} values, one a completion")
        self._columns[str(column)] = [show(entry) for entry in entries]

    def put_on(self, scores: Sequence[Score]) -> list[Score]:
        """The scores with what was logged: metrics in the breakdown, columns in the explanation."""
        if not self._metrics and not self._columns:
            return list(scores)
        metrics = {f"{LOGGED}{name}": fmean(values) for name, values in self._metrics.items()}
        return [
            self._noted(score, metrics, member) if score.value is not None or left_out(score) else score
            for member, score in enumerate(scores)
        ]

    def _noted(self, score: Score, metrics: dict[str, float], member: int) -> Score:
        noted = replace(score, breakdown={**score.breakdown, **metrics})
        columns = [f"{name}: {values[member]}" for name, values in self._columns.items()]
        if score.value is None or not columns:
            return noted
        return replace(noted, explanation="; ".join((score.explanation or f"{score.value:g}", *columns)))
