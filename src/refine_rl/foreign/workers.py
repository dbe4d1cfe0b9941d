"""Where the user's functions run, and what becomes of one that does not come back.

Plain functions share one thread, so that no two of them ever run at the same time; async ones share an event
loop in another. Both stand beside the loop in which judges are asked, and both are watched: in a call whose
time is over `OutOfTime` is raised. A call that swallows it, or stands in C code that waits, is left behind
with its thread, and a new thread goes on. What cannot be helped from within the process is C code that keeps
the interpreter's lock: then nothing runs, this watch no more than Ctrl-C.

    score_group (scoring loop) -> Workers.run, .settle -> Seat.call: foreign code, watched -> an answer
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from refine_rl.foreign.process import barred
from refine_rl.foreign.seats import Failure, Limit, Seat, failure_of

POLL = 0.05  # seconds between two looks of the watch, while something runs
GIVE_UP = 3  # first calls of a function of which none came back, after which it is not called again

WORKERS: ContextVar[Workers | None] = ContextVar("refine_workers", default=None)
"""Where the functions of a reward run; without it, each group gets workers of its own."""


class Workers:
    """The threads of the user's functions; a context manager. They come with the first call."""

    def __init__(self) -> None:
        self._plain = _Plain()
        self._async = _Async()
        self._watch = threading.Thread(target=self._look, name="refine-watch", daemon=True)
        self._wake = threading.Event()
        self._closed = False
        self._bars = contextlib.ExitStack()

    def __enter__(self) -> Workers:
        self._bars.enter_context(barred())
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close(wait=error[0] is None)

    def close(self, *, wait: bool) -> None:
        """No further calls. With `wait`, those under way are waited for, as long as they may take; without
        it, they are told to end."""
        self._plain.close()
        self._async.close()
        if not wait:
            self._plain.seat.stop()
            self._async.seat.stop()
        soon = time.monotonic() + 1.0
        for lane in (self._plain, self._async):
            while lane.seat.alive and (wait or (lane.seat.turn is None and time.monotonic() < soon)):
                time.sleep(0.002)
        self._closed = True
        self._wake.set()
        self._watch.join()
        self._bars.close()

    def begin(self, calls: Sequence[Callable[[], Any]], *, name: str, limit: Limit) -> Future[list[Any]]:
        """The answers to come of a plain function called `name`, one call after the other, each within
        `limit`; a Failure in the place of whatever one raises."""
        future = self._plain.submit(calls, name, limit)
        self._wake.set()
        return future

    def begin_async(
        self, calls: Sequence[Callable[[], Awaitable[Any]]], *, limit: Limit
    ) -> list[Future[Any]]:
        """The same for async functions, which go on at the same time."""
        futures = [self._async.submit(call, limit) for call in calls]
        self._wake.set()
        return futures

    async def run(self, calls: Sequence[Callable[[], Any]], *, name: str, limit: Limit) -> list[Any]:
        """What comes of `begin`."""
        return await asyncio.wrap_future(self.begin(calls, name=name, limit=limit))

    async def settle(self, calls: Sequence[Callable[[], Awaitable[Any]]], *, limit: Limit) -> list[Any]:
        """What comes of `begin_async`."""
        return await asyncio.gather(*map(asyncio.wrap_future, self.begin_async(calls, limit=limit)))

    def _look(self) -> None:
        while not self._closed:
            busy = self._plain.look() | self._async.look()
            if busy:
                time.sleep(POLL)
            else:
                self._wake.wait()
                self._wake.clear()


@dataclass(kw_only=True, slots=True)
class _Job:
    """Calls of plain functions, and their answers so far."""

    calls: Sequence[Callable[[], Any]]
    name: str
    limit: Limit
    done: Future[list[Any]] = field(default_factory=Future)
    answers: list[Any] = field(default_factory=list)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def left(self) -> bool:
        return len(self.answers) < len(self.calls) and not self.done.cancelled()

    def end(self) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(self.answers)


class _Plain:
    """The thread of plain functions."""

    def __init__(self) -> None:
        self.seat = Seat()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._job: _Job | None = None  # the one under way
        self._late: dict[str, int] = {}  # calls that were late, of functions that never came back
        self._came_back: set[str] = set()

    def submit(self, calls: Sequence[Callable[[], Any]], name: str, limit: Limit) -> Future[list[Any]]:
        job = _Job(calls=calls, name=name, limit=limit)
        self._open.add(job.done)
        job.done.add_done_callback(self._open.discard)
        if self.seat.thread is None:
            self._sit(None)
        self._jobs.put(job)
        return job.done

    def close(self) -> None:
        self._jobs.put(None)

    def look(self) -> bool:
        """Whether something runs or waits."""
        failure, job = self.seat.look(), self._job
        if failure is not None and job is not None:
            self._answer(job, failure)
            self._sit(job)
        return bool(self._open) or self._job is not None

    def _sit(self, job: _Job | None) -> None:
        self.seat = seat = Seat()
        seat.thread = threading.Thread(target=self._work, args=(seat, job), name="refine-reward", daemon=True)
        seat.thread.start()

    def _work(self, seat: Seat, job: _Job | None) -> None:
        while job is not None or (job := self._jobs.get()) is not None:
            self._job = job
            while job.left:
                if self._late.get(job.name, 0) >= GIVE_UP:
                    why = (
                        f"not called again: of its first {GIVE_UP} calls none came back ({job.limit.setting})"
                    )
                    job.answers.append(Failure(why=why))
                    continue
                work = job.calls[len(job.answers)]
                # A context of its own: numpy's and decimal's ways of rounding and failing stand in there.
                answer = job.context.copy().run(seat.call, work, job.limit, failure_of)
                with seat.lock:
                    if seat.lost:
                        return
                    self._answer(job, answer)
            self._job = None
            job.end()
            job = None

    def _answer(self, job: _Job, answer: Any) -> None:
        job.answers.append(answer)
        if not isinstance(answer, Failure) or not answer.late:
            self._came_back.add(job.name)
            self._late.pop(job.name, None)
        elif job.name not in self._came_back:
            self._late[job.name] = self._late.get(job.name, 0) + 1


class _Async:
    """The thread and the event loop of async functions."""

    def __init__(self) -> None:
        self.seat = Seat()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], Awaitable[Any]], limit: Limit) -> Future[Any]:
        with self._lock:
            if self._loop is None:
                self.seat, self._loop = Seat(), asyncio.new_event_loop()
                self.seat.thread = threading.Thread(
                    target=_turn_loop, args=(self._loop,), name="refine-reward-async", daemon=True
                )
                self.seat.thread.start()
            done: Future[Any] = Future()
            self._open.add(done)
            done.add_done_callback(self._open.discard)
            self._loop.call_soon_threadsafe(_begin, self._loop, done, _settled(self.seat, call, limit))
        return done

    def close(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)

    def look(self) -> bool:
        failure = self.seat.look()
        if failure is None or self._loop is None:
            return bool(self._open)
        with self._lock:
            lost, self._open = list(self._open), set()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None
        for future in lost:  # the others stood in the same loop, and cannot come back either
            with contextlib.suppress(InvalidStateError):
                future.set_result(failure)
        return False


def _begin(loop: asyncio.AbstractEventLoop, done: Future[Any], work: Coroutine[Any, Any, Any]) -> None:
    """`done` gets what comes of `work`, unless it has an answer already; cancelled, it cancels `work`."""
    task = loop.create_task(work)

    def ended(task: asyncio.Task[Any]) -> None:
        with contextlib.suppress(InvalidStateError):
            if task.cancelled() or not done.set_running_or_notify_cancel():
                done.cancel()
            else:
                done.set_result(task.result())

    def given_up(done: Future[Any]) -> None:
        if done.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)

    task.add_done_callback(ended)
    done.add_done_callback(given_up)


def _turn_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        _cancel_left(loop)
        loop.close()


def _cancel_left(loop: asyncio.AbstractEventLoop) -> None:
    """Ends what was still going on; what swallows its cancellation is left behind."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())


async def _settled(seat: Seat, call: Callable[[], Awaitable[Any]], limit: Limit) -> Any:
    """What the call's awaitable gives within `limit`, or a Failure."""
    task = asyncio.ensure_future(_quietly(seat, call, limit))
    try:
        done, _ = await asyncio.wait({task}, timeout=limit.seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=1.0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return Failure(late=True, why=limit.late)


async def _quietly(seat: Seat, call: Callable[[], Awaitable[Any]], limit: Limit) -> Any:
    """As `call`; what it raises becomes a Failure, for in a task of its own some of it would end the loop."""
    try:
        return await _Watched(seat, call, limit)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return failure_of(error)
    except BaseException as error:
        return failure_of(error)


class _Watched:
    """An awaitable whose every step runs in a turn of `seat`."""

    def __init__(self, seat: Seat, call: Callable[[], Awaitable[Any]], limit: Limit) -> None:
        self._seat, self._call, self._limit = seat, call, limit

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._step(lambda: self._call().__await__())
        step = partial(next, inner)
        while True:
            try:
                waits_for = self._step(step)
            except StopIteration as end:
                return end.value
            try:
                value = yield waits_for
            except BaseException as error:
                step = partial(_thrown, inner, error)
            else:
                step = partial(next, inner) if value is None else partial(inner.send, value)

    def _step(self, work: Callable[[], Any]) -> Any:
        caught: list[BaseException] = []
        answer = self._seat.call(work, self._limit, caught.append)
        if caught:
            raise caught[0]
        return answer


def _thrown(inner: Any, error: BaseException) -> Any:
    if not hasattr(inner, "throw"):
        raise error
    return inner.throw(error)
