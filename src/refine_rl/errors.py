"""Errors that a person reads: what was wrong, where, and what to do next.

Each class carries the exit code of the command line. An error is raised once, close to its cause,
and let through; the command line alone turns it into text.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import traceback
from pathlib import Path
from typing import Any, ClassVar

_INNER = re.compile(r"[/\\](?:refine_rl|site-packages|asyncio)[/\\]")
"""Files that are not the caller's."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {*_FULL, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


class RefineError(Exception):
    """The base of every error that Re:Fine raises on purpose."""

    exit_code: ClassVar[int] = 2

    def _render_traceback_(self) -> list[str]:
        """What IPython shows below a cell: the lines of the caller's own code, and the message. Ours are
        none of a reader's business."""
        frames = traceback.extract_tb(self.__traceback__)
        own = [f for f in frames if not _INNER.search(f.filename)]
        places = [f"{f.line or f.name}" for f in own if f.line]
        return [f"{type(self).__name__}: {self}", *(f"    at: {place}" for place in places[-3:])]


class UserError(RefineError):
    """The user's mistake: settings, file or model. Nothing was spent, nothing was lost."""

    exit_code = 2


class SettingsError(UserError):
    """A setting that cannot be used; the message names the key, the line and the way out."""


class Together:
    """Collects mistakes that do not depend on each other, so that a person hears of all of them at once.

    >>> together = Together()
    >>> for text in ("one", "two"):
    ...     with together:
    ...         raise UserError(text)
    >>> together.tell()
    Traceback (most recent call last):
    refine_rl.errors.UserError: one
    two
    """

    def __init__(self) -> None:
        self._found: list[UserError] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> bool:
        """A mistake of the user is kept; anything else goes on."""
        if not isinstance(error, UserError):
            return False
        self._found.append(error)
        return True

    def tell(self) -> None:
        """Raises what was found: the error itself where it is one, else a UserError with all their texts."""
        said: list[UserError] = []
        for error in self._found:
            if not any(str(error) in str(other) for other in said):
                said.append(error)
        if len(said) == 1:
            raise said[0]
        if said:
            raise UserError("\n".join(map(str, said)))


class GuardStop(RefineError):  # noqa: N818 - it is a stop, not a mistake
    """A guard stopped the run (collapse, sampler mismatch, all completions cut ...).

    `guard` is the guard's short name, `advice` what to try next; `limit` is what the guard's limit would have
    to be, where that alone would do. The state was saved.
    """

    exit_code = 3

    def __init__(self, guard: str, what: str, advice: str, *, limit: float | None = None) -> None:
        super().__init__(f"{what}{advice}" if what.endswith("\n") else f"{what} {advice}")
        self.guard = guard
        self.what = what
        self.advice = advice
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return _guard_stop, (type(self), self.guard, self.what, self.advice, self.limit)


def _guard_stop(kind: type[GuardStop], guard: str, what: str, advice: str, limit: float | None) -> GuardStop:
    """One that another process was sent."""
    return kind(guard, what, advice, limit=limit)


MEND = (
    "Mend what failed, then go on. Where that changes a file of the reward, start the training over (from "
    "step 0), so that the base model is measured by the same reward."
)
"""The advice where scores are missing."""


class MachineError(RefineError):
    """An endpoint or the machine failed after retries."""

    exit_code = 4


class DiskError(MachineError):
    """The disk is full, read-only or broken; the message names what could not be written. What was saved
    before stands."""


def disk_error(error: BaseException, path: Path | None = None) -> DiskError | None:
    """The error as the machine's, where it is one of the disk's; `path` is what was to be written. Libraries
    in Rust, and shutil, wrap the operating system's number in a text of their own.

    >>> disk_error(RuntimeError("I/O error: No space left on device (os error 28)"), Path("a/b"))
    DiskError('a/b cannot be written: No space left on device. Make room on that disk.')
    >>> disk_error(FileNotFoundError(2, "No such file", "a/b")) is None
    True
    """
    if isinstance(error, DiskError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))):
        number = int(found[1] or found[2])
    if number not in _DISK:
        return None
    named = getattr(error, "filename", None)
    what = path or named
    if isinstance(what, bytes):
        what = os.fsdecode(what)
    way_out = {
        errno.EROFS: "Make that disk writable, or take a folder on another one.",
        errno.EFBIG: "Raise the limit on a file's size (ulimit -f), or take a folder on another disk.",
    }
    advice = way_out.get(number, "Make room on that disk." if number in _FULL else "Look at that disk.")
    place = f"{what} cannot be written: " if what else "The output cannot be written: "
    return DiskError(f"{place}{os.strerror(number)}. {advice}")


class Interrupted(RefineError):  # noqa: N818
    """The person pressed Ctrl-C; the run stands at a step's boundary and can be resumed."""

    exit_code = 130


def path_from(folder: Path, name: Path | str) -> Path:
    """The file that a task in `folder` calls `name`, as a person finds it in an error: without the way there
    and back ("task/../data.csv"). A link that is its last part stays what it is.

    >>> print(path_from(Path("/work/my-task"), "../data.csv"), path_from(Path("/work/my-task"), "/data.csv"))
    /work/data.csv /data.csv
    """
    path = folder / Path(name).expanduser()
    return path.parent.resolve() / path.name if ".." in path.parts[:-1] else path


def no_file(path: Path) -> str:
    """What is where a file should be, for an error."""
    return f"{path} is a folder; name a file in it" if path.is_dir() else f"there is no file {path}"


def quoted(path: Path | str) -> str:
    """A path as a word of a command that is printed, so that a shell takes it as it is.

    >>> print("refine chat", quoted(Path("my runs/a")))
    refine chat 'my runs/a'
    """
    return shlex.quote(str(path))
