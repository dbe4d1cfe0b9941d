"""One writer a run: a lock on a file in its folder, held as long as the process has it open. The file says
who holds it, for those who only watch: they never take the lock, not even to see whether it is free."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """What a lock's file says of who holds it, or held it when its machine stopped or it was killed. `where`
    are the machine, since when it runs, and the numbering of its processes; `began` tells the process from
    a later one of the same number; `since` is the time at which it took the lock (seconds since 1970)."""

    pid: int
    where: str
    began: str
    since: float

    @property
    def alive(self) -> bool | None:
        """Whether the process is there still; None where that cannot be seen from here."""
        if self.where != _where() or os.name != "posix":
            return None
        try:
            os.kill(self.pid, 0)  # sends nothing: asks whether something could be sent
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            pass
        state, began = _process(self.pid)
        if state == "Z":  # killed, and nobody has taken note
            return False
        return None if self.began and not began else self.began == began


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
        _say(descriptor)
        return cls(descriptor)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)  # the process may live on
        os.close(self._descriptor)


def hold(folder: Path) -> Hold | None:
    """Who holds the folder's lock, by its file, which is only read; None where nobody does, or it does not
    say (an older version took it)."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((folder / LOCK).read_bytes())
        pid, since = int(found["pid"]), float(found["since"])
        if 0 < pid < 1 << 31:
            return Hold(pid=pid, where=str(found["where"]), began=str(found["began"]), since=since)
    return None


def _say(descriptor: int) -> None:
    me = Hold(pid=os.getpid(), where=_where(), began=_process(os.getpid())[1], since=time.time())
    with contextlib.suppress(OSError):  # on a full disk it is held all the same
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(asdict(me)).encode() + b"\n")


def _where() -> str:
    found = [platform.node()]
    with contextlib.suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        found.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - it leads to no path
    return " ".join(found)


def _process(pid: int) -> tuple[str, str]:
    """The state of a process, and when it began, as Linux says them; "" where it does not."""
    with contextlib.suppress(OSError, IndexError):
        # The second field is the program's name, in brackets, and may hold spaces and brackets of its own.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    return "", ""


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
