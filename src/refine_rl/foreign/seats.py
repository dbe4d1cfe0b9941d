"""A thread as the place in which foreign code runs, a call at a time, within its time."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from refine_rl.foreign.failures import describe_failure, foreign_frames
from refine_rl.foreign.process import World, foreign

TRIES = 20  # times that OutOfTime is raised in a call before its thread is left behind
_BETWEEN = 0.1  # seconds between two of them


class OutOfTime(BaseException):
    """Raised inside of foreign code whose time is over. No Exception, so that it is not caught by mistake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The time of a call, and the setting that says so.

    >>> Limit(seconds=0.5, setting="reward.timeout").late
    'did not come back within 0.5 s (reward.timeout)'
    """

    seconds: float
    setting: str

    @property
    def late(self) -> str:
        return f"did not come back within {self.seconds:g} s ({self.setting})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An answer that could not be had; `late` where its time was over."""

    why: str
    late: bool = False


def failure_of(error: BaseException) -> Failure:
    if isinstance(error, OutOfTime):
        return Failure(why=str(error), late=True)
    return Failure(why=describe_failure(error))


@dataclass(kw_only=True, slots=True)
class _Turn:
    """A call of foreign code under way."""

    limit: Limit
    deadline: float  # time.monotonic(), of the next OutOfTime
    world: World
    fired: int = 0

    def late(self, frames: Iterable[traceback.FrameSummary], how: str = "") -> str:
        """That its time is over, and where it stood."""
        return f"{self.limit.late}{how}\n{foreign_frames(frames)}".rstrip()


class Seat:
    """A thread in which foreign code runs. Its `turn` is what runs in it now."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.turn: _Turn | None = None
        self.lost = False  # left behind: it must touch nothing any more
        self.lock = threading.Lock()

    def call(self, work: Callable[[], Any], limit: Limit, failed: Callable[[BaseException], Any]) -> Any:
        """What `work` gives, or what `failed` makes of what it raises, OutOfTime included. The state of the
        process is as before when this returns."""
        turn = _Turn(limit=limit, deadline=time.monotonic() + limit.seconds, world=World())
        try:
            try:
                with foreign():
                    self.turn = turn
                    try:
                        return work()
                    finally:
                        self._end(turn)
            finally:
                if not self.lost:
                    turn.world.put_back()
        except OutOfTime as error:
            self._end(turn)  # where it came while the turn was being ended
            return failed(OutOfTime(turn.late(traceback.extract_tb(error.__traceback__))))
        except BaseException as error:
            return failed(error)

    def _end(self, turn: _Turn) -> None:
        self.turn = None
        with self.lock:
            if turn.fired and not self.lost:  # one that has not arrived yet must not arrive in our own code
                _raise_in(threading.get_ident(), None)

    def look(self) -> Failure | None:
        """What the watch does: nothing, or OutOfTime for a call that is late. A Failure where that was of no
        use: then the seat is lost."""
        turn = self.turn
        if turn is None or time.monotonic() < turn.deadline:
            return None
        if not self.stop(turn):
            return None
        with contextlib.suppress(Exception):  # the watch must go on, whatever state this is
            turn.world.put_back()
        frame = sys._current_frames().get(self.ident)
        how = ", and could not be stopped; its thread is left behind"
        return Failure(late=True, why=turn.late(traceback.extract_stack(frame) if frame else [], how))

    def stop(self, turn: _Turn | None = None) -> bool:
        """OutOfTime for the call under way (`turn`, or whichever there is); whether that was of no use so
        often that the seat is lost."""
        with self.lock:
            turn = turn or self.turn
            if turn is None or self.turn is not turn:
                return False
            turn.fired += 1
            turn.deadline = time.monotonic() + _BETWEEN
            _raise_in(self.ident, OutOfTime)
            self.lost = turn.fired > TRIES
            return self.lost

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    @property
    def ident(self) -> int:
        return (self.thread.ident if self.thread is not None else None) or 0


def _raise_in(ident: int, error: type[BaseException] | None) -> None:
    """`error` in the thread `ident`, at its next step of Python; None takes back one that has not arrived."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(error) if error is not None else None
    )
