"""A disk that is full, read-only or broken, told from mistakes: whatever library the words come from."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from refine_rl.errors import DiskError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK = {*_FULL, errno.EROFS, errno.EIO, errno.ESTALE}


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
    way_out = {errno.EROFS: "Make that disk writable, or take a folder on another one."}
    advice = way_out.get(number, "Make room on that disk." if number in _FULL else "Look at that disk.")
    place = f"{what} cannot be written: " if what else "The output cannot be written: "
    return DiskError(f"{place}{os.strerror(number)}. {advice}")


def write_whole(path: Path, text: str) -> None:
    """A file that is there with all of the text, or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with saving(path):
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Names the file (or folder) where the disk does not take what is written inside."""
    try:
        yield
    except Exception as error:
        if (disk := disk_error(error, path)) is not None and disk is not error:
            raise disk from error
        raise
