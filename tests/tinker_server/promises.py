"""Promises: work that one thread carries out, in the order that the client numbered it, kept by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Result = dict[str, Any] | bytes  # JSON, or a protobuf message
Work = Callable[[], Result]


class Promises:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "tinker-server")
        self._results: dict[str, Future[Result]] = {}
        self._lines: dict[str, _Line] = {}

    def at_once(self, name: str, work: Work) -> str:
        """Work whose turn is now; a name that was given before is the same promise, carried out once."""
        with self._lock:
            if name not in self._results:
                self._results[name] = Future()
                self._thread.submit(_carry_out, self._results[name], work)
        return name

    def in_line(self, line: str, number: int, work: Work) -> str:
        """Work number `number` (from 1) of a line: it waits for those before it, whenever they come."""
        name = f"{line}:{number}"
        with self._lock:
            if name not in self._results:
                self._results[name] = Future()
                waiting = self._lines.setdefault(line, _Line())
                waiting.work[number] = self._results[name], work
                while waiting.next in waiting.work:
                    self._thread.submit(_carry_out, *waiting.work.pop(waiting.next))
                    waiting.next += 1
        return name

    def result(self, name: str, seconds: float) -> Result | None:
        """The result; None where it is not there after `seconds`.

        KeyError: no such promise. Whatever the work raised."""
        with self._lock:
            future = self._results[name]
        try:
            return future.result(seconds)
        except TimeoutError:
            return None

    def stop(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


class _Line:
    def __init__(self) -> None:
        self.next = 1
        self.work: dict[int, tuple[Future[Result], Work]] = {}


def _carry_out(future: Future[Result], work: Work) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
