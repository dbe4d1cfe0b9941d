"""Processes that begin with everything imported: `from forked import begin, finish`.

A fresh interpreter takes five processor seconds to import torch, transformers and peft, many times what a
small run takes. Here each process of pytest has one that imports them once, and forks. What comes of it is a
process like any other: it has a number of its own, can be interrupted and killed, and holds its own locks and
files. What it does not show is how an interpreter starts and ends; a test of that starts a real one.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from pathlib import Path
from typing import Any

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
IMPORTED = ("refine_rl.cli", "refine_rl.pipeline.train", "transformers.models.llama.modeling_llama", "peft")
"""What they begin with: installed packages, for tests' own folder is not looked into."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(IMPORTED))


class Forked:
    """A process at work, with the part of `subprocess.Popen` that tests use; its streams are of bytes."""

    def __init__(
        self, code: str, arguments: Sequence[str], streams: list[int], ours: list[int | None], **how: Any
    ) -> None:
        handed = [_Handed(each) for each in streams]
        self._process = _CONTEXT.Process(target=_become, args=(code, list(arguments), handed), kwargs=how)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        opened = [
            None if end is None else io.FileIO(end, mode) for end, mode in zip(ours, "wrr", strict=True)
        ]
        self.stdin, self.stdout, self.stderr = opened

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()


class _Handed:
    """A descriptor on its way to another process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.descriptor)

    def __setstate__(self, state: Any) -> None:
        self.descriptor = state.detach()


def begin(
    *arguments: str | Path,
    code: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Any = DEVNULL,
    stdout: Any = DEVNULL,
    stderr: Any = DEVNULL,
) -> Forked:
    """`refine ARGUMENTS`, or `python -c CODE ARGUMENTS`, at work. A stream is PIPE, DEVNULL, a descriptor or
    a file with one."""
    streams: list[int] = []
    ours: list[int | None] = []
    lent: list[int] = []  # the other process has its own
    for wanted, writes in ((stdin, False), (stdout, True), (stderr, True)):
        end = None
        if wanted == PIPE:
            reads_from, writes_to = os.pipe()
            streams.append(writes_to if writes else reads_from)
            end = reads_from if writes else writes_to
            lent.append(streams[-1])
        elif wanted == DEVNULL:
            streams.append(os.open(os.devnull, os.O_RDWR))
            lent.append(streams[-1])
        else:
            streams.append(wanted if isinstance(wanted, int) else wanted.fileno())
        ours.append(end)
    place = str(cwd or Path.cwd())
    environment = dict(os.environ if env is None else env)
    try:
        return Forked(code, list(map(str, arguments)), streams, ours, place=place, environment=environment)
    finally:
        for each in lent:
            os.close(each)


def finish(
    *arguments: str | Path, code: str = "", given: bytes = b"", timeout: float = 250, **how: Any
) -> subprocess.CompletedProcess[str]:
    """What became of `refine ARGUMENTS`, or of `python -c CODE ARGUMENTS`; killed where it takes too long."""
    with tempfile.TemporaryFile() as put, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        put.write(given)
        put.seek(0)
        process = begin(*arguments, code=code, stdin=put, stdout=out, stderr=err, **how)
        try:
            returncode = process.wait(timeout)
        finally:
            process.kill()
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return subprocess.CompletedProcess(["refine", *map(str, arguments)], returncode, *said)


def _become(
    code: str, arguments: list[str], handed: list[_Handed], *, place: str, environment: dict[str, str]
) -> None:
    """In the new process: what a fresh one would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # behind a shell's & it would be ignored
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    sys.path[:] = [each for each in sys.path if each != str(Path(__file__).parent)]
    for number, each in enumerate(handed):
        os.dup2(each.descriptor, number)
        os.close(each.descriptor)
    read, write = (functools.partial(open, mode=mode, encoding="utf-8", closefd=False) for mode in "rw")
    sys.stdin, sys.stdout, sys.stderr = read(0), write(1), write(2, errors="backslashreplace", buffering=1)
    if code:
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the test's own
        return
    sys.argv = ["refine", *arguments]
    from refine_rl.cli import main

    main()
