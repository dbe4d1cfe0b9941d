"""One writer a run: a lock on a file in its folder, held as long as the process has it open."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LOCK = ".lock"


class Lock:
    """Held until `release`. Where the system has no such locks (Windows, some network disks), the folder is
    not guarded once it is there; making it is exclusive all the same."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, *, new: bool = False) -> Lock | None:
        """The folder's lock; None where another process holds it. `new`: the folder is being made, so that a
        lock file that no lock protects belongs to somebody else. Raises FileNotFoundError where the folder
        is gone."""
        path = folder / LOCK
        made = True
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            made = False
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        locked = _lock(descriptor)
        # The file may have been removed, folder and all, between opening and locking: then the lock is one
        # on nothing.
        if locked is False or (locked is None and new and not made) or not _same(descriptor, path):
            os.close(descriptor)
            return None
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


def held(folder: Path) -> bool | None:
    """Whether a process of this machine holds the folder's lock, found without ever taking it: a run that is
    about to begin must not be refused because somebody looks. None where the system does not tell (only
    Linux does)."""
    try:
        locked = (folder / LOCK).stat()
    except OSError:
        return False
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 4711 08:01:1234567 0 EOF
    rows = [line.split() for line in locks.splitlines() if " FLOCK " in line]
    return any(int(row[-3].rpartition(":")[2]) == locked.st_ino for row in rows if "->" not in row)


def _lock(descriptor: int) -> bool | None:
    """Whether it was taken; None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
