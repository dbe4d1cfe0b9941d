"""A run that another process may be writing, for one who only reads it, again and again: what was read once
is not read again, no lock is taken, and nothing is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from refine_rl.run.config import Config
from refine_rl.run.files import Record
from refine_rl.run.folder import RunFolder
from refine_rl.run.lock import Hold, hold
from refine_rl.run.table import Table
from refine_rl.settings import Settings

R = TypeVar("R")
_TAIL = 256  # bytes before the place where reading goes on, by which a file is known again
_BLOCK = 1 << 18  # bytes from the end, and twice as many as long as they hold no whole line
_FOLDERS = ("evaluations", "sft")  # whose files are looked at one by one


class Following(Table[R]):
    """A table that is read on from where it was. Its lines are kept as `thin` leaves them.

    A file that was replaced (a run went back to an earlier step), cut or removed is read anew. Lines in its
    middle that a person changes are not noticed. Several threads may read.
    """

    def __init__(self, table: Table[R], thin: Callable[[Record], Record] = lambda record: record) -> None:
        super().__init__(
            table.path,
            table._shape,
            grows=table._grows,
            sequence=table._sequence,
            way_out=table._way_out,
        )
        self._thin = thin
        self._reading = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._kept: list[tuple[int, Record | None, str]] = []
        self._offset, self._tail = 0, b""

    def _scan(self) -> Iterator[tuple[int, Record | None, str]]:
        with self._reading:
            self._read_on()
            kept, count = self._kept, len(self._kept)
        for place in range(count):
            yield kept[place]

    def _read_on(self) -> None:
        try:
            lines = self._file.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return
        with lines:
            lines.seek(self._offset - len(self._tail))
            if lines.read(len(self._tail)) != self._tail:
                self._forget()
                lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # it is still being written
                number, record, wrong = self._parsed(len(self._kept) + 1, line)
                self._kept.append((number, None if record is None else self._thin(record), wrong))
                self._offset += len(line)
                self._tail = (self._tail + line)[-_TAIL:]

    def newest(self, steps: int = 1) -> list[Record]:
        """The whole lines of the last `steps` steps that are there, read from the end of the file. A damaged
        one is left out: who reads the file from its beginning tells of it."""
        try:
            with self._file.open("rb") as file:
                return self._newest(file, steps)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _newest(self, file: BinaryIO, steps: int) -> list[Record]:
        size, block = file.seek(0, os.SEEK_END), _BLOCK
        while True:
            start = max(0, size - block)
            file.seek(start)
            lines = file.read(size - start).split(b"\n")[:-1]  # behind the last line end nothing is whole
            found: list[Record] = []
            for line in reversed(lines if start == 0 else lines[1:]):
                _, record, _ = self._parsed(0, line)
                if record is None:
                    continue
                if found and record["step"] <= found[0]["step"] - steps:
                    return found[::-1]
                found.append(record)
            if start == 0:
                return found[::-1]
            block *= 2


class _FollowedConfig(Config):
    """Parsed anew only where the file is another one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._of: tuple[int, int] | None = None  # the file that the parsed tables are of
        self._parsed: dict[str, dict[str, Any]] = {}
        self._made: Settings | None = None

    def settings(self) -> Settings:
        self._tables()
        if self._made is None:
            self._made = super().settings()
        return self._made

    def _tables(self) -> dict[str, dict[str, Any]]:
        stat = self._file.stat()
        file = (stat.st_ino, stat.st_mtime_ns)
        if file != self._of:
            self._parsed, self._made = super()._tables(), None
            self._of = file
        return self._parsed


class Watched(RunFolder):
    """The run. Its tables follow their files; of groups only the number of their tokens is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = _FollowedConfig(path)
        self.groups = self._followed_groups = Following(self.groups, _without_tokens)
        self.metrics, self.validation = Following(self.metrics), Following(self.validation)
        self.pool, self.events = Following(self.pool), Following(self.events)
        self.times, self.calls = Following(self.times), Following(self.calls)

    @property
    def sft(self) -> RunFolder:
        return self._sft

    @cached_property
    def _sft(self) -> Watched:
        return Watched(self.path / "sft")

    def newest_groups(self) -> list[Record]:
        """Those of the last step on record, as their lines stand."""
        return self._followed_groups.newest()

    def hold(self) -> Hold | None:
        """Who writes the run, by what its lock's file says; of the fine-tuning with which a run begins, who
        writes that run."""
        outer = RunFolder(self._root.parent)
        part = outer.begun and outer.sft.path == self._root
        return hold(self._root) or (hold(outer.path) if part else None)

    def state_of_files(self) -> dict[str, tuple[int, int, int]]:
        """What tells whether anything was written since: of each file (and folder of weights) its number,
        size and time (ns), the page and what is being written aside apart."""
        return dict(_files(self._root, self.report.name))

    def heard(self) -> float | None:
        """When a file of the run was last written (seconds since 1970); None where there is none."""
        times = [time for _, _, time in self.state_of_files().values()]
        return max(times) / 1e9 if times else None


def _files(folder: Path, page: str, inside: str = "") -> Iterator[tuple[str, tuple[int, int, int]]]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == page:
            continue
        try:
            stat = entry.stat()
        except FileNotFoundError:  # renamed or removed since
            continue
        if entry.name in _FOLDERS and entry.is_dir():
            yield from _files(Path(entry), page, f"{inside}{entry.name}/")
        else:
            yield inside + entry.name, (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _without_tokens(group: Record) -> Record:
    """The group of a line as a reader of its texts and numbers sees it, in a fifth of the memory: of tokens
    their number can be asked."""
    answers = [
        {**{k: v for k, v in t.items() if k not in ("logprobs", "spans")}, "tokens": range(len(t["tokens"]))}
        for t in group["trajectories"]
    ]
    return {**group, "prompt_tokens": range(len(group["prompt_tokens"])), "trajectories": answers}
