"""Tracking: the listener of a run's journal that wakes the trackers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from refine_rl.run.journal import Journal
from refine_rl.run.trackers.courier import Courier
from refine_rl.types import Metrics

PATIENCE = 30.0
"""Seconds that the end of a run waits for its trackers."""


class Tracking:
    """Hears which steps are on record. What trackers have to say is told through the journal."""

    def __init__(self, couriers: Sequence[Courier], journal: Journal, *, patience: float = PATIENCE) -> None:
        self._couriers, self._journal, self._patience = couriers, journal, patience

    def stage(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...

    def step(self, metrics: Metrics, steps: int) -> None:
        """What belongs to a step may still be added to it (a validation, a warning), but not to the one
        before."""
        self._send(metrics.step - 1)

    def kept(self, step: int) -> None:
        self._send(step)

    def _send(self, through: int) -> None:
        for courier in self._couriers:
            courier.send(through)
        self._tell()

    def close(self) -> None:
        """The rest, and how it ended; waits for it, but no longer than its patience."""
        end = time.monotonic() + self._patience
        for courier in self._couriers:
            courier.finish()
        waiting = [c for c in self._couriers if not c.wait(1.0)]
        if waiting:
            names = ", ".join(c.name for c in waiting)
            self._journal.stage(f"Waiting for {names}, at most {self._patience:.0f} s")
        late = [c.name for c in waiting if not c.wait(max(0.0, end - time.monotonic()))]
        self._tell()
        for name in late:
            self._journal.warning(
                f"tracker_{name}",
                f"{name} did not take everything in {self._patience:.0f} s. What it lacks is in the run's "
                "files, and is sent when the run is taken up again, also where it is finished: "
                f"{self._journal.resume}",
            )

    def _tell(self) -> None:
        for courier in self._couriers:
            for warning, text in courier.words():
                tell = self._journal.warning if warning else self._journal.note
                tell(f"tracker_{courier.name}", text)
