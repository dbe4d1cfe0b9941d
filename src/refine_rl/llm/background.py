"""Coroutines run to their end: from plain code, wherever that stands, and several at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from refine_rl.progress import Counted, Pause, never, uncounted, wait

T = TypeVar("T")


def run_blocking(make: Callable[[], Coroutine[Any, Any, T]], pause: Pause = never) -> T:
    """What the coroutine gives, or raises. It runs in a thread with an event loop of its own, so the caller
    may stand in a loop himself (a notebook does). `pause` is called many times a second; where it raises, the
    coroutine is cancelled, has its time to tidy up, and the error goes on.

    >>> async def answer() -> int:
    ...     return 42
    >>> run_blocking(answer)
    42
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()
    ended: Future[T] = Future()

    async def main() -> T:
        task = asyncio.ensure_future(make())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    def work() -> None:
        try:
            ended.set_result(asyncio.run(main()))
        except BaseException as error:  # all of it belongs to the caller
            begun.cancel()
            ended.set_exception(error)

    context = contextvars.copy_context()  # so that a meter of the caller counts what is called in there
    thread = threading.Thread(target=context.run, args=(work,), name="refine-llm", daemon=True)
    thread.start()
    try:
        return wait(ended, pause)
    except BaseException:
        with contextlib.suppress(CancelledError, RuntimeError):  # it never began, or has ended
            loop, task = begun.result()
            loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        thread.join()


async def all_of(works: Iterable[Coroutine[Any, Any, T]], counted: Counted = uncounted) -> list[T]:
    """The results of all works, which go on at the same time, in their order; `counted` hears of those that
    are done. When one raises, the others are cancelled and waited for: nothing goes on behind the back of an
    error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    for task in tasks:
        task.add_done_callback(lambda _: counted(sum(t.done() for t in tasks), len(tasks)))
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
