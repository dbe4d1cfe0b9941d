"""The report of a run that goes on: there from the first validation on, and made anew as training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.types import Metrics

SHARE = 0.02
"""Of the run's time that making the report anew may take; the first one is made whatever it takes."""
EVERY = 10
"""Steps behind which a report is due where nothing is validated or checkpointed before."""


class RenewedReport:
    """A further listener of a run's journal, which makes the report where it is due: behind a validation, a
    checkpoint, or a number of steps. It is written aside and renamed, so that the last one is there whole
    whenever the run ends. It only reads, and takes no random number, so that no result depends on it. Where
    it fails, the journal says so once and the run goes on."""

    def __init__(self, run: RunFolder, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._run, self._clock, self._began = run, clock, clock()
        self._due, self._newest = False, 0  # the step of the newest report
        self._spent, self._last = 0.0, 0.0  # seconds: all reports, and the last one

    def stage(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...

    def step(self, metrics: Metrics, steps: int) -> None:
        self._newest = min(self._newest, metrics.step)  # behind a fine-tuning steps begin anew
        self._due = self._due or metrics.step - self._newest >= EVERY
        self._make(metrics.step)

    def kept(self, step: int) -> None:
        self._due = True
        self._make(step)

    def _make(self, step: int) -> None:
        """Makes it where it is due, and cheap beside what has been done since the run was taken up."""
        began = self._clock()
        if not self._due or self._spent + self._last > SHARE * (began - self._began):
            return
        self._due, self._newest = False, step
        try:
            with self._run.timed("report", step):
                self._run.save_report(render(self._run))
        finally:
            self._last = self._clock() - began
            self._spent += self._last
