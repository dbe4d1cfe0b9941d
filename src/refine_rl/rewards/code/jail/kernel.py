"""What the operating system keeps from a worker, and from each program in it.

On Linux a worker goes into namespaces of its own: no network, other processes not to be seen, and a root in
which Python's library lies read-only and nothing else does. Where the kernel refuses that to an ordinary user
(a container without the right to `unshare`), or where it is no Linux, the worker says what it lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from refine_rl.foreign.parent import LINUX

_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _RECURSIVE, _PRIVATE, _RELATIVE_TIMES = 4096, 16384, 1 << 18, 1 << 21
_KEPT = 2 | 4 | 8 | 1024 | 2048  # nosuid, nodev, noexec, noatime, nodiratime: the same bits in statvfs
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITIES = 0x20080522  # version 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use: seconds of the processor, bytes of memory, of files together."""

    cpu: int
    memory: int
    files: int


class Refused(Exception):  # noqa: N818
    """The kernel does not give it; the message says what."""


def go_apart(folder: str) -> None:
    """Namespaces for this process and its children, the first of which is the init of its own processes; a
    root of its own, made at the empty `folder`. Refused where the kernel does not want it: then nothing of
    it can be relied on, and the process has to begin anew."""
    libraries = [path for path in _libraries() if path.exists()]
    user, group = os.getuid(), os.getgid()
    with _told("unshare"):
        _check(_libc().unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NAMES | _NEW_IPC | _NEW_PIDS | _NEW_NETWORK))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    with _told("a root of its own"):
        _mount("none", "/", None, _RECURSIVE | _PRIVATE)
        _mount("tmpfs", folder, "tmpfs", _NO_SETUID | _NO_DEVICES, "size=1m,mode=755")
        for path in libraries:
            _show(path, folder)
        Path(folder, "tmp").mkdir(exist_ok=True)
        os.chdir(folder)
        _check(_libc().syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."))
        _check(_libc().umount2(b".", _DETACH))
        os.chdir("/")
        _mount("none", "/", None, _REMOUNT | _BIND | _READ_ONLY | _NO_SETUID | _NO_DEVICES)


def own_processes(limits: Limits) -> None:
    """The next child of this process is the init of processes of its own, with an empty /tmp of its own; only
    inside of `go_apart`."""
    _check(_libc().unshare(_NEW_PIDS | _NEW_MOUNTS | _NEW_IPC))
    _mount("tmpfs", "/tmp", "tmpfs", _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS, f"size={limits.files},mode=700")


def give_up_rights() -> None:
    """No capability any more, not even inside of the own namespaces."""
    if LINUX:
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
        nothing = (ctypes.c_uint32 * 6)()
        _check(_libc().capset(header, nothing))


def limit(limits: Limits, *, processes: bool) -> None:
    """The limits of a process that runs foreign code, for good. `processes`: none may be made, for users
    other than root."""
    wanted = {
        "RLIMIT_CPU": limits.cpu,
        "RLIMIT_AS": limits.memory,
        "RLIMIT_FSIZE": limits.files,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_CORE": 0,
        **({"RLIMIT_NPROC": 0} if processes else {}),
    }
    for name, value in wanted.items():
        which = getattr(resource, name, None)
        if which is None:
            continue
        _, hard = resource.getrlimit(which)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not limit memory
            resource.setrlimit(which, (most, most))


def only_descriptors(null: int, *kept: int) -> None:
    """Closes all but `kept`; input and output are `null`."""
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    before = 3
    for one in (*sorted(kept), _most_descriptors()):
        os.closerange(before, one)
        before = one + 1


def _most_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 65536 if soft == resource.RLIM_INFINITY else min(soft, 65536)


def _libraries() -> list[Path]:
    """Where Python's library lies, and what its extension modules are linked to."""
    python = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    linked = {Path(name) for name in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{sys.base_prefix}/lib")}
    return sorted(python | linked)


def _show(path: Path, folder: str) -> None:
    """Lets `path` be seen in the new root, read-only, as itself; packages installed there apart."""
    place = Path(folder + str(path))
    if place.is_symlink() or place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        place.symlink_to(path.readlink())
        return
    place.mkdir()
    _mount(str(path), str(place), None, _BIND | _RECURSIVE)
    flags = os.statvfs(place).f_flag
    same = (flags & _KEPT) | (_RELATIVE_TIMES if flags & 4096 else 0)
    _mount("none", str(place), None, _REMOUNT | _BIND | _READ_ONLY | _NO_SETUID | _NO_DEVICES | same)
    for packages in (*place.glob("site-packages"), *place.glob("python3*/site-packages")):
        _mount("tmpfs", str(packages), "tmpfs", _READ_ONLY, "size=4k")


def _mount(what: str, where: str, kind: str | None, flags: int, options: str = "") -> None:
    form = None if kind is None else kind.encode()
    _check(_libc().mount(what.encode(), where.encode(), form, ctypes.c_ulong(flags), options.encode()))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{what}: {error.strerror}") from None
