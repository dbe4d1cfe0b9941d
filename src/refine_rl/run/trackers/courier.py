"""Courier: the thread that brings a run to one tracker.

It holds nothing that waits: what is still to be sent stands in the run's files. So a tracker that hangs costs
neither time nor memory, and what it missed is sent when it is there again, in this process or a later one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

from refine_rl.run.trackers.base import End, Tracker
from refine_rl.run.trackers.known import Knowledge, Known
from refine_rl.run.trackers.source import Source


class Courier:
    """Brings the steps up to the one that `send` named, and at `finish` the end."""

    def __init__(self, name: str, make: Callable[[], Tracker], source: Source, knowledge: Knowledge) -> None:
        self.name = name
        self._make, self._source, self._knowledge = make, source, knowledge
        self._changed = threading.Condition()
        self._through, self._ending = -1, False  # what is asked for
        self._words: list[tuple[bool, str]] = []
        self._tracker: Tracker | None = None
        self._known = Known(id="")
        self._failed = False
        self.through = -1  # up to where it has tried to bring the steps
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the run's side -----------------------------------------------------------------------

    def send(self, through: int) -> None:
        """All of the steps up to `through` is on record."""
        self._wake(through, ending=False)

    def finish(self) -> None:
        """The process is about to end."""
        self._wake(self._through, ending=True)

    def wait(self, seconds: float) -> bool:
        """Whether all has been brought after at most so many seconds."""
        return self._thread is None or self._done.wait(seconds)

    def words(self) -> list[tuple[bool, str]]:
        """What a person should hear since this was asked last; whether it is a warning, and the text."""
        with self._changed:
            words, self._words = self._words, []
        return words

    def _wake(self, through: int, *, ending: bool) -> None:
        with self._changed:
            self._through, self._ending = through, ending
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
            self._thread.start()

    # -- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        seen = (-1, False)
        while not seen[1]:
            with self._changed:
                while seen == (self._through, self._ending):
                    self._changed.wait()
                seen = self._through, self._ending
            try:
                self._bring(*seen)
            except Exception as error:  # whatever it is, the run goes on
                self._leave()
                if not self._failed:
                    self._failed = True
                    what = f"{type(error).__name__}: {error}".removesuffix(": ")
                    self._say(f"{self.name} could not be given the run: {what}", warning=True)
            self.through = seen[0]
        self._done.set()

    def _bring(self, through: int, ending: bool) -> None:
        if ending:
            through = self._source.recorded_to()
        if not self._source.begun() or (ending and self._has_the_end(through)):
            return
        self._part_where_it_went_back()
        tracker = self._tracker or self._open()
        self._tracker = tracker
        for row in self._source.rows(self._known.sent, through):
            tracker.row(row)
            self._note(replace(self._known, sent=row.step))
        if ending:
            end = self._source.end()
            tracker.close(end)
            self._note(replace(self._known, ended=end.state))

    def _part_where_it_went_back(self) -> None:
        """Ends what is shown there where the run has gone back behind it since, in this very process: the
        next try begins anew."""
        tracker = self._tracker
        back, earliest = self._source.went_back(self._known.back)
        if tracker is None or earliest is None:
            return
        if earliest >= self._known.sent:
            self._note(replace(self._known, back=back))
            return
        self._tracker = None
        text = f"The run went back to step {earliest}, and goes on in a new one."
        tracker.close(End(state="interrupted", text=text, step=self._known.sent))

    def _leave(self) -> None:
        """The next try begins with another tracker."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with contextlib.suppress(Exception):
                tracker.leave()

    def _has_the_end(self, through: int) -> bool:
        known = self._knowledge.get(self.name)
        return known is not None and (known.ended, known.sent) == ("finished", through)

    def _open(self) -> Tracker:
        """Begins, or goes on with what an earlier process began; anew where the run has gone back behind what
        the tracker has: it cannot forget."""
        known = self._knowledge.get(self.name) or Known(id="")
        back, earliest = self._source.went_back(known.back)
        if earliest is not None and earliest < known.sent:
            known = Known(id="")
        tracker = self._make()
        opened = tracker.open(self._source.about(), known.id)
        has = known.sent if opened.has is None else opened.has
        self._note(Known(id=opened.id, sent=has, back=back))
        if opened.say and opened.id != known.id:
            self._say(opened.say)
        return tracker

    def _note(self, known: Known) -> None:
        self._known = known
        self._knowledge.put(self.name, known)

    def _say(self, text: str, *, warning: bool = False) -> None:
        with self._changed:
            self._words.append((warning, text))
