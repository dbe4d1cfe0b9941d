"""Coroutines run to their end from plain code, wherever that stands."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from refine_rl.progress import Pause, never

T = TypeVar("T")
_POLL = 0.1  # seconds between two looks at `pause`


def run_blocking(make: Callable[[], Coroutine[Any, Any, T]], pause: Pause = never) -> T:
    """What the coroutine gives, or raises. It runs in a thread with an event loop of its own, so the caller
    may stand in a loop himself (a notebook does). `pause` is called ten times a second; where it raises, the
    coroutine is cancelled, has its time to tidy up, and the error goes on.

    >>> async def answer() -> int:
    ...     return 42
    >>> run_blocking(answer)
    42
    """
    work = _Work(make)
    context = contextvars.copy_context()  # so that a meter of the caller counts what is called in there
    thread = threading.Thread(target=context.run, args=(work.run,), name="refine-llm", daemon=True)
    thread.start()
    try:
        while not work.ended.wait(_POLL):
            pause()
    except BaseException:
        work.cancel()
        thread.join()
        raise
    thread.join()
    return work.result()


class _Work(Generic[T]):
    """One coroutine in its thread."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False
        self._values: list[T] = []
        self._error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self._values.append(asyncio.run(self._main()))
        except BaseException as error:  # all of it belongs to the caller
            self._error = error
        finally:
            self.ended.set()

    async def _main(self) -> T:
        task = asyncio.ensure_future(self._make())
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), task
            if self._cancelled:
                task.cancel()
        try:
            return await task
        finally:
            with self._lock:
                self._loop = None

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._values[0]
