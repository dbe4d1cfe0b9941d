"""What GRPO tells the outside, and what the outside may know already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.pool import Chosen, Seen
from refine_rl.training.grpo.selection import Selection
from refine_rl.types import Group, StepMetrics


class Record(Protocol):
    """Of one run. A step that it has already is never told to it a second time."""

    def recorded(self, step: int) -> Sequence[Group] | None:
        """The groups of this step, where an earlier process sampled and scored them."""

    def history(self) -> Sequence[StepMetrics]:
        """Metrics of all steps so far."""

    def seen(self) -> Sequence[Seen]:
        """What every group so far was worth, for the choice of prompts; step 0 is a probe."""

    def pool(self, step: int, chosen: Chosen) -> None:
        """Who rests from this step on, and who is back."""

    def selected(self, step: int, selection: Selection) -> None:
        """Which of the groups sampled for a step are scored. Once its groups are on record, the prompts of
        the others have had a turn as well, without evidence."""

    def selection(self, step: int) -> Selection | None:
        """That of a step whose groups are on record; None where all were scored."""

    def groups(self, groups: Sequence[Group]) -> None:
        """All groups of a step."""

    def step(self, metrics: StepMetrics) -> None:
        """A whole step."""

    def warning(self, step: int, name: str, text: str) -> None:
        """What a person should look at; each name once a run."""

    def note(self, step: int, name: str, text: str) -> None:
        """What is good to know."""

    def checkpoint(self, position: Position, *, best: bool) -> None:
        """The state of training; `best`: on the validation prompts, so far."""
