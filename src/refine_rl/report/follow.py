"""An Observer for people: what it says of a run, wherever that is shown."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from rich.text import Text

from refine_rl.report.lines import INDENT, StepLines, clock_of
from refine_rl.report.moment import Moment
from refine_rl.report.safe import shown
from refine_rl.report.time_left import fine_tuning, parts_of
from refine_rl.report.wrapping import wrap
from refine_rl.run import RunFolder
from refine_rl.types import Metrics

_SHARE = 0.02  # of the time may go into reading the record again


class Follower:
    """Makes a line of everything that is told, and keeps `now`, what is going on; from the record of the
    `run` it knows how long that will take. Who shows it overrides `_say` and `_changed`; what fails there
    ends nothing."""

    width = 100
    narrow = True  # whether the width counts

    def __init__(
        self, run: RunFolder | None = None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.now = Moment(stage="Getting ready")
        self._run, self._clock, self._began = run, clock, clock()
        self._lines, self._lock = StepLines(), threading.RLock()
        self._read, self._cost = float("-inf"), 0.0  # when the record was read, and what that took
        self._due = ""  # a head that was not said yet
        self._made = False
        with contextlib.suppress(Exception):  # a record that cannot be read is told by whoever needs it
            for step in () if run is None else run.metrics.read():
                self._lines.remember(step)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began

    # -- what an Observer hears ---------------------------------------------------------------

    def stage(self, text: str) -> None:
        with self._lock:
            said = self._under(text).lstrip()
            self.now = self.now.begins(shown(text).partition("\n")[0])
            self._reckon()
            clock = clock_of(self.seconds)
            self._say_head()
            self._say(Text.assemble((clock, "dim"), "  ", (said, "bold")))

    def note(self, text: str) -> None:
        with self._lock:
            self._say(Text(self._under(text)))

    def warning(self, text: str) -> None:
        with self._lock:
            self._warn(Text.assemble(("warning", "yellow"), f"   {self._under(text).lstrip()}"))

    def step(self, metrics: Metrics, steps: int) -> None:
        with self._lock:
            self.now = self.now.counted("steps", metrics.step, steps, self.seconds)
            self._reckon(stepped=True)
            clock = clock_of(self.seconds)
            line = self._lines(metrics, steps, clock, self.width, narrow=self.narrow)
            self._say_head()
            self._say(self._with_left(line))

    def count(self, what: str, done: int, of: int) -> None:
        with self._lock:
            self.now = self.now.counted(what, done, of, self.seconds)
            self._changed()

    def head(self, text: str) -> None:
        """What a person wants to find again, such as where the run is. It is said before the first stage at
        which there is something: of a run that is refused before it begins (a model that cannot be loaded)
        nothing is to be found."""
        self._due = text

    # -- where it is shown --------------------------------------------------------------------

    def _say(self, text: Text) -> None:
        """A line."""
        raise NotImplementedError

    def _warn(self, text: Text) -> None:
        """A line that a person should look at."""
        self._say(text)

    def _changed(self) -> None:
        """`now` is another one."""

    def _with_left(self, line: Text) -> Text:
        """A step's line, with the time left where nothing else shows that."""
        return line

    # -- inside -------------------------------------------------------------------------------

    def _say_head(self) -> None:
        if self._due and self._something_made():
            text, self._due = shown(self._due), ""
            self._say(Text(wrap(text, self.width - 1) if self.narrow else text))

    def _something_made(self) -> bool:
        """Whether the run stays, so that a person may be sent to it."""
        if self._run is None or self._made:
            return True
        try:
            self._made = self._run.has_made()
        except Exception:  # of a folder that cannot be read: told by whoever needs it
            self._made = True
        return self._made

    def _under(self, text: str) -> str:
        """The text in the column under a stage's words; on a screen broken between words."""
        indented = "\n".join(" " * INDENT + line for line in shown(text).splitlines() or [""])
        return wrap(indented, self.width - 1) if self.narrow else indented

    def _reckon(self, *, stepped: bool = False) -> None:
        """Reads anew what is still to be done. Where that is dear and was done a moment ago, a step more is
        counted instead."""
        if self._run is None:
            return
        began, now = self._clock(), self.now
        parts = list(now.parts)
        if began - self._read < self._cost / _SHARE:
            if stepped and parts:
                parts[0] = replace(parts[0], to_come=max(0, parts[0].to_come - 1))
                self.now = replace(now, parts=parts, known=self.seconds)
            return
        try:
            tuning = fine_tuning(self._run)
            parts = parts_of(self._run if tuning is None else tuning)
            self.now = replace(now, parts=parts, known=self.seconds, whole=tuning is None)
        except Exception:  # told by whoever needs it
            self.now = replace(now, parts=())
        self._read = self._clock()
        self._cost = self._read - began
