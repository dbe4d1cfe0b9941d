"""A worker: takes a program and its tests, gives back what held; and the keeper, who makes the programs.

The keeper is forked before the worker has seen any test, and the programs' processes are forked from it: what
a program finds in its memory is Python, its own code and nothing else. The examiner is forked anew for each
job. Whoever ends takes along what hangs on it: the run its workers (their input ends), a worker its keeper
and examiner, the keeper (the init of the worker's processes) every program.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from refine_rl.foreign.parent import LINUX, die_with_parent
from refine_rl.rewards.code.jail import kernel
from refine_rl.rewards.code.jail.calls import can_filter, filter_calls
from refine_rl.rewards.code.jail.exam import BadTests, read_exam
from refine_rl.rewards.code.jail.examiner import examine
from refine_rl.rewards.code.jail.program import Program
from refine_rl.rewards.code.jail.remote import Session
from refine_rl.rewards.code.jail.wire import Broken, receive, send

PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy csv dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers operator "
    "pprint queue random re secrets statistics string struct textwrap threading time types typing unicodedata"
)
"""What a program imports without reading a file; all that it can where it has no root of its own."""
_MOST = 1 << 22  # bytes of a job, which the run sends
_ANSWER = 1 << 20  # bytes of a program's answer
_GRACE = 2.0  # seconds that an examiner has beyond the job's
_PROBE = 10.0
_TRIAL = ("def f(x):\n    return x + 1\n", "assert f(2) == 3")
_WAIT = 0.2  # seconds for a program that has closed its end to be over


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """What is kept from a program: `root` all the machine's files, the network and other processes; `calls`
    the system calls that calls.py does not name."""

    root: bool
    calls: bool


class Keeper:
    """Makes programs' processes and ends them; asked over a socket, one at a time."""

    def __init__(self, asked: socket.socket, limits: kernel.Limits, layers: Layers, null: int) -> None:
        self._asked = asked
        self._limits = limits
        self._layers = layers
        self._null = null
        self._program = 0
        self._parent = os.getppid()

    def serve(self) -> None:
        """Until nobody can ask any more."""
        while True:
            if not select.select([self._asked], [], [], 1.0)[0]:
                if os.getppid() != self._parent:
                    return
                continue
            words = self._asked.recv(64).decode().split()
            if not words:
                return
            how = self._end(_WAIT if words[0] == "gone" else 0.0)
            if words[0] != "begin":
                self._asked.send(f"{words[1]} {how}".encode())
                continue
            try:
                mine, theirs = socket.socketpair()
                with mine, theirs:
                    self._begin(theirs)
                    socket.send_fds(self._asked, [words[1].encode()], [mine.fileno()])
            except OSError as error:
                self._asked.send(f"{words[1]} {error}".encode())

    def _begin(self, channel: socket.socket) -> None:
        if not self._layers.root:
            keeper = os.getpid()  # asked in the child, it may be that of who inherits orphans
            self._program = os.fork()
            if not self._program:
                self._become_program(channel, keeper)
            return
        told, tells = os.pipe()
        between = os.fork()
        if not between:
            try:
                kernel.own_processes(self._limits)
                program = os.fork()
            except OSError as error:
                os.write(tells, str(error).encode())
                os._exit(1)
            if not program:
                self._become_program(channel)
            os.write(tells, str(program).encode())
            os._exit(0)
        os.close(tells)
        said = os.read(told, 100).decode()
        os.close(told)
        os.waitpid(between, 0)
        if not said.isdigit():
            raise OSError(said or "no process can be made")
        self._program = int(said)

    def _become_program(self, channel: socket.socket, keeper: int | None = None) -> None:
        """`keeper`: the process with which it ends; without namespaces, which see to that."""
        try:
            os.setsid()
            if keeper is not None:
                die_with_parent(keeper)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            kernel.only_descriptors(self._null, channel.fileno())
            if self._layers.root:
                os.chdir("/tmp")
                kernel.give_up_rights()
            kernel.limit(self._limits, processes=not self._layers.calls)
            if self._layers.calls:
                filter_calls(files=self._layers.root)
            Program(channel.fileno(), _ANSWER).serve()
        finally:
            os._exit(0)

    def _end(self, wait: float) -> str:
        """Ends the program; how it had ended before, if it had or does within `wait` seconds."""
        if not self._program:
            return ""
        program, self._program = self._program, 0
        until = time.monotonic() + wait
        ended, status = os.waitpid(program, os.WNOHANG)
        while not ended and time.monotonic() < until:
            time.sleep(0.002)
            ended, status = os.waitpid(program, os.WNOHANG)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        if not ended:
            os.kill(program, signal.SIGKILL)
            os.waitpid(program, 0)
            return ""
        if os.WIFSIGNALED(status):
            by = os.WTERMSIG(status)
            if by in (signal.SIGKILL, signal.SIGXCPU):
                return "it used up its seconds of the processor, or killed itself"
            return f"it crashed ({signal.Signals(by).name})"
        return "it ended itself before it had answered"


class Asking:
    """The other end of the socket to a keeper."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to

    def begin(self) -> Session:
        """A new program; the one before is ended. OSError where none can be made."""
        said, found = self._say("begin")
        if not found:
            raise OSError(said)
        return Session(found[0], self.end, most=_ANSWER)

    def end(self, *, gone: bool = False) -> str:
        """Ends the program; how it had ended by itself, if it had. `gone`: it is about to."""
        return self._say("gone" if gone else "end")[0]

    def _say(self, word: str) -> tuple[str, list[int]]:
        number = f"{os.getpid()}/{time.monotonic_ns()}"
        self._to.send(f"{word} {number}".encode())
        while True:
            said, found, _, _ = socket.recv_fds(self._to, 500, 1)
            to, _, text = said.decode().partition(" ")
            if to == number:
                return text, found
            for one in found:  # of an examiner that was ended before it could read
                os.close(one)
            if not said:
                raise OSError("the keeper is gone")


def main(folder: str) -> None:
    """A worker: begins with {"cpu", "memory", "files", "apart", "filtered"} on its input, answers with what
    it is shut in by, and then a job at a time: {"code", "tests", "seconds"} -> {"assertions"}, a list of
    {"line", "held", "why"}. `folder` is empty, and where a root of its own is made."""
    os.environ.clear()  # Python itself puts the locale there
    wanted = receive(0, most=_MOST)
    limits = kernel.Limits(cpu=wanted["cpu"], memory=wanted["memory"], files=wanted["files"])
    for name in PRELOADED.split():
        __import__(name)
    null = os.open(os.devnull, os.O_RDWR)
    if wanted["apart"]:
        try:
            kernel.go_apart(folder)
        except (kernel.Refused, OSError, KeyError) as error:
            send(1, {"refused": str(error)})
            return
    layers = Layers(root=wanted["apart"], calls=wanted["filtered"] and can_filter())
    gc.collect()
    gc.freeze()
    kind = socket.SOCK_SEQPACKET if LINUX else socket.SOCK_DGRAM
    mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
    parent = 0 if layers.root else os.getpid()  # the parent's number, as a child sees it
    if not os.fork():
        try:
            die_with_parent(parent)
            mine.close()
            kernel.only_descriptors(null, null, theirs.fileno())
            Keeper(theirs, limits, layers, null).serve()
        finally:
            os._exit(0)
    theirs.close()
    worker = Worker(asking=Asking(mine), limits=limits, parent=parent)
    trial = worker.judge({"code": _TRIAL[0], "tests": _TRIAL[1], "seconds": _PROBE})
    send(1, {"trial": trial, "root": layers.root, "calls": layers.calls})
    while True:
        try:
            job = receive(0, most=_MOST)
        except Broken:
            return
        send(1, worker.judge(job))


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Does jobs, each by an examiner of its own."""

    asking: Asking
    limits: kernel.Limits
    parent: int

    def judge(self, job: dict[str, Any]) -> dict[str, Any]:
        """{"assertions"}; {"failed"} where it could not be done, {"unusable"} where its tests are at
        fault."""
        told, tells = os.pipe()
        try:
            examiner = os.fork()
        except OSError as error:
            os.close(told)
            os.close(tells)
            return {"failed": f"no process can be made: {error.strerror}"}
        if not examiner:
            os.close(told)
            self._examine(job, tells)
        os.close(tells)
        try:
            found = _heard(told, until=time.monotonic() + job["seconds"] + _GRACE)
        finally:
            os.close(told)
            with contextlib.suppress(ProcessLookupError):
                os.kill(examiner, signal.SIGKILL)
            os.waitpid(examiner, 0)
        try:
            self.asking.end()
        except OSError as error:
            return {"failed": str(error)}
        for one in found:
            if "failed" in one or "unusable" in one:
                return one
        return {"assertions": found[1:]} if found else {"failed": "the examiner did not begin"}

    def _examine(self, job: dict[str, Any], tells: int) -> NoReturn:
        try:
            die_with_parent(self.parent)
            kernel.give_up_rights()
            memory = max(self.limits.memory, 1 << 30)
            cpu = int(job["seconds"]) + 5
            kernel.limit(kernel.Limits(cpu=cpu, memory=memory, files=0), processes=False)
            exam = read_exam(job["tests"])
            tell = partial(send, tells)
            examine(exam, job["code"], self.asking.begin, tell, seconds=job["seconds"])
        except BadTests as error:
            send(tells, {"unusable": str(error)})
        except OSError as error:
            send(tells, {"failed": f"the program's process: {error}"})
        finally:
            os._exit(0)


def _heard(told: int, *, until: float) -> list[dict[str, Any]]:
    """What an examiner tells, until it ends or its time does. A run that is gone ends all of it: it sends
    nothing while a job is done, so that its end of the pipe says something then only."""
    found: list[dict[str, Any]] = []
    while ready := select.select([told, 0], [], [], max(0.0, until - time.monotonic()))[0]:
        if told not in ready:
            sys.exit()
        try:
            found.append(receive(told, most=_ANSWER))
        except Broken:
            break
    return found
