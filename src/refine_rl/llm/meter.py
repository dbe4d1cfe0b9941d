"""Counting the calls of one piece of work: a prompt's judging, a step, a command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NANO = 10**9  # money is added as whole billionths of a dollar, so that no order of adding changes a sum


class Meter:
    """Calls made, replies that could not be used, and the cost, None as soon as that of one is unknown."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.unusable = 0
        self._nano: int | None = 0

    @property
    def cost_usd(self) -> float | None:
        return None if self._nano is None else self._nano / NANO

    def add(self, calls: int, cost_usd: float | None, unusable: int) -> None:
        with self._lock:
            self.calls += calls
            self.unusable += unusable
            known = self._nano is not None and cost_usd is not None
            self._nano = self._nano + round(cost_usd * NANO) if known else None  # type: ignore[operator]


_meters: ContextVar[tuple[Meter, ...]] = ContextVar("refine_meters", default=())


@contextmanager
def meter() -> Iterator[Meter]:
    """Counts every call made inside, in tasks that are started inside too; meters may lie in each other.

    >>> with meter() as counted:
    ...     count(calls=1, cost_usd=0.25)
    >>> counted.calls, counted.cost_usd
    (1, 0.25)
    """
    own = Meter()
    token = _meters.set((*_meters.get(), own))
    try:
        yield own
    finally:
        _meters.reset(token)


def count(*, calls: int, cost_usd: float | None, unusable: int = 0) -> None:
    """Adds to every meter that is running here."""
    for running in _meters.get():
        running.add(calls, cost_usd, unusable)
