"""The workers that run programs: begun when first needed, kept, replaced when they fail, ended with the run.

A worker is an interpreter of its own, without site packages and with an empty environment; what runs in it is
jail/keeper.py. It does one job at a time. Its input is a pipe of the run: when the run ends, however it ends,
the worker and all that hangs on it end as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from refine_rl.errors import SettingsError
from refine_rl.rewards.code.jail.wire import Broken, TooLate, receive, send

_HERE = Path(__file__).parent
_BEGIN = """
import sys, types
name, place = "", {root!r}
for part in {parts!r}:
    name = name + "." + part if name else part
    place = place + "/" + part
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
from refine_rl.rewards.code.jail.keeper import main
main(sys.argv[1])
"""
"""Imports the jail without what stands above it: the interpreter has no site packages."""
_MOST = 1 << 22  # bytes of a worker's reply
_START = 60.0  # seconds
_GRACE = 10.0  # seconds that a worker has beyond its job's
_FILES = 16 << 20  # bytes that a program may write in its folder


class Failed(Exception):  # noqa: N818
    """A program could not be run: our fault, or the machine's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """What programs are kept away from here. `why` says what the kernel refused, "" where nothing.

    >>> Isolation(root=True, calls=True).lacks
    ()
    """

    root: bool
    calls: bool
    why: str = ""

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is NOT isolated, each as what a program can do."""
        if self.root and self.calls:
            return ()
        if self.root:
            return ("make processes of its own, as many as the machine lets it until its time is over",)
        if self.calls:
            return ("find out which files there are (not what is in them)",)
        return (
            "read and change every file that you can",
            "reach the network",
            "signal or start other processes, and leave some behind",
        )

    @property
    def text(self) -> str:
        """A sentence for a person."""
        how = []
        if self.root:
            how.append(
                "no network, no other processes in sight, no file but Python's library and a temporary folder"
            )
        if self.calls:
            how.append("no process of their own, no socket, no signal" + ("" if self.root else ", no file"))
        return "; ".join(how) or "limits on time, memory and files alone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assertion:
    """What became of one assertion; `why` it did not hold."""

    line: int
    held: bool
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program, with all of its assertions, may use: seconds of the clock and of the processor, and
    megabytes of memory."""

    seconds: float
    cpu: int
    memory: int


class Sandbox:
    """Runs programs against tests, `workers` at once."""

    ways: tuple[tuple[bool, bool], ...] = (
        ((True, True), (False, True), (True, False), (False, False))
        if sys.platform.startswith("linux")
        else ((False, False),)
    )
    """Whether a worker gets a root of its own, and whether its programs' system calls are filtered: tried in
    this order until a program runs."""

    def __init__(self, limits: Limits, workers: int) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="refine-code")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self.workers: set[_Worker] = set()
        self._isolation: Isolation | None = None
        self._way = threading.Lock()
        self.close = weakref.finalize(self, _close, self._pool, self.workers)

    def isolation(self) -> Isolation:
        """What programs are kept from on this machine, found by running one. Failed where none runs."""
        with self._way:
            if self._isolation is None:
                worker, self._isolation = self._found()
                self._idle.put(worker)
            return self._isolation

    async def judge(self, code: str, tests: str) -> list[Assertion]:
        """What became of the assertions, in their order, as far as there was time for them. Failed where the
        program could not be run; ValueError where the tests fail by themselves."""
        taken: list[_Worker] = []
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, self._judge, code, tests, taken)
        try:
            reply = await work
        except asyncio.CancelledError:
            for worker in taken:
                worker.kill()
            raise
        if "unusable" in reply:
            raise ValueError(str(reply["unusable"]))
        if "failed" in reply:
            raise Failed(str(reply["failed"]))
        return [Assertion(**one) for one in reply["assertions"]]

    def _judge(self, code: str, tests: str, taken: list[_Worker]) -> dict[str, Any]:
        isolation = self.isolation()
        try:
            worker = self._idle.get_nowait()
        except Empty:
            worker = self._begun(isolation.root, isolation.calls)
        taken.append(worker)
        try:
            reply = worker.ask(
                {"code": code, "tests": tests, "seconds": self._limits.seconds},
                seconds=self._limits.seconds + _GRACE,
            )
        except (Broken, TooLate) as error:
            self._drop(worker)
            raise Failed(
                f"its worker {'did not come back' if isinstance(error, TooLate) else 'ended'}"
            ) from None
        self._idle.put(worker)
        return reply

    def _found(self) -> tuple[_Worker, Isolation]:
        """A worker that is as shut in as this machine allows."""
        refused: list[str] = []
        for root, calls in self.ways:
            worker = self._begun(root, calls)
            said = worker.said
            if "refused" in said:
                refused.append(str(said["refused"]))
            elif (
                all(one["held"] for one in said["trial"].get("assertions", ()))
                and "assertions" in said["trial"]
            ):
                found = Isolation(
                    root=said["root"], calls=said["calls"], why="; ".join(dict.fromkeys(refused))
                )
                return worker, found
            else:
                refused.append(str(said["trial"]))
            self._drop(worker)
        raise Failed(f"no program runs on this machine: {'; '.join(refused)}")

    def _begun(self, root: bool, calls: bool) -> _Worker:
        worker = _Worker()
        self.workers.add(worker)
        try:
            worker.begin(
                {
                    "cpu": self._limits.cpu,
                    "memory": self._limits.memory << 20,
                    "files": _FILES,
                    "apart": root,
                    "filtered": calls,
                }
            )
        except (Broken, TooLate, OSError) as error:
            told = worker.last_words()
            self._drop(worker)
            raise Failed(f"no worker can be begun: {told or error}") from None
        return worker

    def _drop(self, worker: _Worker) -> None:
        self.workers.discard(worker)
        worker.kill()


class _Worker:
    """One worker's process."""

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            raise SettingsError(
                "reward.code: programs are run on Linux and macOS only; this system has no fork"
            )
        self.said: dict[str, Any] = {}
        root = _HERE.parents[2]
        begin = _BEGIN.format(root=str(root), parts=_HERE.relative_to(root).parts)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self.folder = Path(tempfile.mkdtemp(prefix="refine-code-"))  # where it makes a root of its own
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", begin, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is the run's
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to = self.process.stdin.fileno()
        self._from = self.process.stdout.fileno()

    def begin(self, wanted: dict[str, Any]) -> None:
        self.said = self.ask(wanted, seconds=_START)
        self.folder.rmdir()

    def ask(self, job: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        send(self._to, job)
        reply = receive(self._from, most=_MOST, until=time.monotonic() + seconds)
        if not isinstance(reply, dict):
            raise Broken("no reply")
        return reply

    def last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _close(pool: ThreadPoolExecutor, workers: Sequence[_Worker] | set[_Worker]) -> None:
    for worker in list(workers):
        worker.kill()
    pool.shutdown(wait=False, cancel_futures=True)
