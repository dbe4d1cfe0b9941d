"""Which system calls a program may make: a filter (seccomp) that nothing in its process can take off again.

A program computes: it gets memory, reads and writes what it has open, waits, and has threads. It makes no
process, opens no socket, sends no signal to anybody else, looks into no other process and sets no limit.
Files it opens only where it stands in a root of its own (kernel.py). Whatever the tables here do not name is
refused with "operation not permitted", and so is a call that the kernel learns tomorrow.

The numbers are those of Linux's headers, asm/unistd_64.h and asm-generic/unistd.h; the form of a filter is
described in the kernel's Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# name:x86_64:aarch64
_PLAIN = """
read:0:63 write:1:64 close:3:57 fstat:5:80 newfstatat:262:79 stat:4:- lstat:6:- lseek:8:62
mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 pread64:17:67 readv:19:65 writev:20:66 access:21:- faccessat:269:48
faccessat2:439:439 sched_yield:24:124 mremap:25:216 madvise:28:233 dup:32:23 dup2:33:- dup3:292:24
nanosleep:35:101 clock_nanosleep:230:115 getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174
geteuid:107:175 getgid:104:176 getegid:108:177 exit:60:93 exit_group:231:94 futex:202:98
getdents64:217:61 getcwd:79:17 readlink:89:- readlinkat:267:78 getrandom:318:278
clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- sched_getaffinity:204:123
set_robust_list:273:99 rseq:334:293 getrlimit:97:163 poll:7:- ppoll:271:73 select:23:-
pselect6:270:72 sigaltstack:131:132 uname:63:160 sysinfo:99:179 getrusage:98:165 times:100:153
pipe:22:- pipe2:293:59 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22
statx:332:291 fadvise64:221:223 umask:95:166 chdir:80:49 membarrier:324:283 set_tid_address:218:96
restart_syscall:219:128 socketpair:53:199 recvfrom:45:207 getsockopt:55:209 shutdown:48:210
"""
_FILES = """
openat:257:56 open:2:- unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38 renameat2:316:276
mkdir:83:- mkdirat:258:34 rmdir:84:- symlink:88:- symlinkat:266:36 link:86:- linkat:265:37
ftruncate:77:46 truncate:76:45 fsync:74:82 chmod:90:- fchmod:91:52 fchmodat:268:53 utimensat:280:88
flock:73:32 fallocate:285:47
"""
_LOOKED_AT = (
    "ioctl:16:29 fcntl:72:25 clone:56:220 clone3:435:435 prlimit64:302:261 sendto:44:206 tgkill:234:131"
)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, the kernel's word for it

_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_THREAD = 0x00010000  # CLONE_THREAD
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # about terminals, and blocking or closing
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # copies of descriptors, and their flags; nobody's signals
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def can_filter() -> bool:
    """Whether there is a table for this machine."""
    return os.name == "posix" and platform.system() == "Linux" and platform.machine() in _MACHINES


def filter_calls(*, files: bool) -> None:
    """From here on, and for good, this thread and all it begins make the calls above only. OSError where the
    kernel has no such filters."""
    body = b"".join(_instructions(*_MACHINES[platform.machine()], files=files))
    libc = ctypes.CDLL(None, use_errno=True)
    kept = ctypes.create_string_buffer(body, len(body))
    program = struct.pack("HxxxxxxP", len(body) // 8, ctypes.addressof(kept))
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0), (_SECCOMP, _FILTER, program)):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")


def _instructions(column: int, machine: int, *, files: bool) -> list[bytes]:
    def number(name: str) -> int:
        return _numbers(_LOOKED_AT, column)[name]

    allowed = _numbers(_PLAIN + (_FILES if files else ""), column).values()
    lines = [
        _line(_LOAD, _MACHINE),
        _line(_EQUAL, machine, 1, 0),
        _line(_RETURN, _REFUSE | errno.EPERM),
        _line(_LOAD, _NUMBER),
    ]
    for one in sorted(allowed):
        lines += [_line(_EQUAL, one, 0, 1), _line(_RETURN, _ALLOW)]
    lines += _where(number("clone3"), [_line(_RETURN, _REFUSE | errno.ENOSYS)])  # then libc takes clone
    lines += _where(number("clone"), [_argument(0), _line(_ANY_BIT, _THREAD, 0, 1), _line(_RETURN, _ALLOW)])
    for name, values in (("ioctl", _IOCTLS), ("fcntl", _FCNTLS)):
        tries = [w for v in values for w in (_line(_EQUAL, v, 0, 1), _line(_RETURN, _ALLOW))]
        lines += _where(number(name), [_argument(1), *tries])
    lines += _where(
        number("tgkill"), [_argument(0), _line(_EQUAL, os.getpid(), 0, 1), _line(_RETURN, _ALLOW)]
    )
    for name, place in (("prlimit64", 2), ("sendto", 4)):  # a pointer that has to be nowhere
        low, high = _argument(place), _argument(place, high=True)
        both = [low, _line(_EQUAL, 0, 0, 3), high, _line(_EQUAL, 0, 0, 1), _line(_RETURN, _ALLOW)]
        lines += _where(number(name), both)
    return [*lines, _line(_RETURN, _REFUSE | errno.EPERM)]


def _numbers(table: str, column: int) -> dict[str, int]:
    rows = (word.split(":") for word in table.split())
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}


def _where(number: int, then: list[bytes]) -> list[bytes]:
    """What is done at that call; refused where it does not return by then."""
    then = [*then, _line(_RETURN, _REFUSE | errno.EPERM)]
    return [_line(_EQUAL, number, 0, len(then)), *then]


def _argument(place: int, *, high: bool = False) -> bytes:
    return _line(_LOAD, _ARGUMENTS + 8 * place + (4 if high else 0))


def _line(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_so, if_not, value)
