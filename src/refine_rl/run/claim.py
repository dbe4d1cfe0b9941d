"""How a folder becomes one run's: two processes that want it at the same moment get two folders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from refine_rl.run.disk import saving
from refine_rl.run.lock import Lock


def names(name: str) -> Iterator[str]:
    """`name`, `name-2`, `name-3` ..."""
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def free(name: str, taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name-2`, `name-3` ... that is not taken."""
    return next(free for free in names(name) if not taken(free))


def taken_by(path: Path, unused: Collection[str]) -> bool:
    """Whether there is something already; the files in `unused`, which a process that was killed before its
    run began may leave, are nothing."""
    if not path.is_dir():
        return path.exists() or path.is_symlink()
    return any(entry.name not in unused for entry in path.iterdir())


def claimed(path: Path, unused: Collection[str]) -> Lock | None:
    """The lock of a folder that is this process's from here on; None where it is somebody else's. The folder
    is made where it is not there; an empty one is taken as it is."""
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.mkdir()
            except FileExistsError:
                if taken_by(path, unused):
                    return None
            try:
                lock = Lock.take(path, new=True)
            except FileNotFoundError:  # who had it has removed it in between
                continue
            if lock is not None and taken_by(path, unused):  # a run that was made, and let go, in between
                lock.release()
                return None
            return lock


def first_free(parent: Path, name: str, unused: Collection[str]) -> tuple[Path, Lock]:
    """The first of `parent/name`, `parent/name-2` ... that can be claimed, with its lock."""
    for free in names(name):
        if (lock := claimed(parent / free, unused)) is not None:
            return parent / free, lock
    raise AssertionError("names do not end")
