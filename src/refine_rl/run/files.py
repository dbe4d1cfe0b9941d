"""Bytes and lines of a run's folder: grown by whole lines, replaced by a rename, and named where they are
not what was written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError
from refine_rl.run.disk import saving
from refine_rl.run.shapes import flaw

Record = dict[str, Any]


class Files:
    """A folder with files of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path  # as it was given, for words
        # Where the files are, whatever becomes of the current folder: a reward function may change it.
        self._root = path.absolute()

    # -- reading ------------------------------------------------------------------------------

    def _text(self, file: str) -> str:
        path = self._root / file
        try:
            return path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}:{line}: not UTF-8 text. {self._way_out(file)}") from error

    def _lines(self, file: str) -> Iterator[Record]:
        """Whole lines only: what follows the last line end is still being written. Raises UserError that
        names a line which is not what was written."""
        return (record for _, record in self._numbered(file))

    def _numbered(self, file: str) -> Iterator[tuple[int, Record]]:
        for number, record, wrong in self._read(file):
            if record is None:
                raise self._broken(file, number, wrong)
            yield number, record

    def _broken(self, file: str, number: int, wrong: str) -> UserError:
        return UserError(
            f"{self.path / file}:{number}: this line is damaged: {wrong}. {self._way_out(file, number)}"
        )

    def _way_out(self, file: str, line: int | None = None) -> str:
        """What to do about a damaged file."""
        return "Put it back as it was."

    def _read(self, file: str) -> Iterator[tuple[int, Record | None, str]]:
        """(number, record, "") of each whole line; (number, None, what is wrong) of a damaged one."""
        path = self._root / file
        if not path.is_file():
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    if not self._grows(file):
                        yield number, None, "the file ends in the middle of it"
                    return
                try:
                    record = json.loads(line.decode("utf-8"))  # from bytes it would guess UTF-16
                except (ValueError, RecursionError) as error:
                    yield number, None, _why_no_json(error)
                    continue
                wrong = flaw(file, record)
                yield number, record if wrong is None else None, wrong or ""

    def _grows(self, file: str) -> bool:
        """Whether lines are added to the file, so that the last may be torn; others are replaced whole."""
        return True

    # -- writing ------------------------------------------------------------------------------

    def _append(self, file: str, text: str) -> None:
        data = as_bytes(text)
        path = self._root / file
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
            finally:
                os.close(descriptor)

    def _replace(self, file: str, text: str) -> Path:
        path = self._root / file
        aside = path.with_name(f".{path.name}.new")
        with saving(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as f:
                f.write(as_bytes(text))
                f.flush()
                os.fsync(f.fileno())
            aside.replace(path)
        return path

    def _cut_torn_line(self, file: str) -> None:
        """Removes what follows the last line end."""
        path = self._root / file
        if not path.is_file():
            return
        with path.open("rb") as f:
            size = end = f.seek(0, os.SEEK_END)
            while end and not (block := _block(f, end)).count(b"\n"):
                end -= len(block)
            if end:
                end -= len(block) - block.rfind(b"\n") - 1
        if end < size:
            with saving(path):
                os.truncate(path, end)

    def _keep_lines(self, file: str, keep: Callable[[Record], bool]) -> None:
        """Rewrites the file with the lines that `keep` takes. A damaged one goes with those that are not
        kept; raises UserError where a line that is kept follows it."""
        kept: list[Record] = []
        damaged: tuple[int, str] | None = None
        if not (self._root / file).is_file():
            return
        for number, record, wrong in self._read(file):
            if record is None:
                damaged = damaged or (number, wrong)
            elif keep(record):
                if damaged is not None:
                    raise self._broken(file, *damaged)
                kept.append(record)
        self._replace(file, "".join(map(as_line, kept)))


def _block(f: Any, end: int) -> bytes:
    """Up to 64 KiB of the file that end at `end`."""
    begin = max(0, end - 65536)
    f.seek(begin)
    return bytes(f.read(end - begin))


def _why_no_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error.msg} at column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it is no UTF-8 text"


def as_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def as_bytes(text: str) -> bytes:
    """UTF-8. A lone surrogate (foreign text may hold one) becomes its JSON escape instead of an error."""
    return text.encode("utf-8", "backslashreplace")
