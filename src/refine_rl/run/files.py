"""Bytes on a disk that may be full, read-only or broken: files that grow by whole lines, and files that are
replaced by a rename. Nothing is half there; the error says where."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError, disk_error

Record = dict[str, Any]
PUT_BACK = "Put it back as it was."


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text. {PUT_BACK}") from error


def append(path: Path, text: str, *, at_once: bool = False) -> None:
    """All of the text, or nothing of it where the disk does not take it; `at_once`: it is on the disk when
    this returns."""
    data = as_bytes(text)
    with saving(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                # What fitted is half a line, and the next one would be glued to it.
                os.ftruncate(descriptor, before)
                raise
            if at_once:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace(path: Path, text: str) -> None:
    """The file has the text, or what it had before: a reader never sees half of either."""
    aside = path.with_name(f".{path.name}.new")
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as f:
            f.write(as_bytes(text))
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last line end."""
    if not path.is_file():
        return
    with path.open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        end = mmap(f.fileno(), size, access=ACCESS_READ).rfind(b"\n") + 1 if size else 0
    if end < size:
        with saving(path):
            os.truncate(path, end)


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


def record_of(line: bytes) -> tuple[Record | None, str]:
    """What a line of a file of records holds, and ""; or None, and what is wrong with it.

    >>> record_of(b'{"step": 1}'), record_of(b"[1]"), record_of(b'{"step": ')
    (({'step': 1}, ''), (None, 'it is no JSON object'), (None, 'it is no JSON: Expecting value at column 10'))
    """
    try:
        record = json.loads(line.decode("utf-8"))  # from bytes it would guess UTF-16
    except json.JSONDecodeError as error:
        return None, f"it is no JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        return None, "it is nested too deeply"
    except ValueError:
        return None, "it is no UTF-8 text"
    return (record, "") if isinstance(record, dict) else (None, "it is no JSON object")


def as_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def as_bytes(text: str) -> bytes:
    """UTF-8. A lone surrogate (foreign text may hold one) becomes its JSON escape instead of an error."""
    return text.encode("utf-8", "backslashreplace")


def names(name: str) -> Iterator[str]:
    """`name`, `name-2`, `name-3` ..."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def free(name: str, taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name-2`, `name-3` ... that is not taken."""
    return next(free for free in names(name) if not taken(free))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
