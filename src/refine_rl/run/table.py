"""Table: one file of a run that is lines of JSON.

It only grows by whole lines (one write each) or is replaced by a rename, so that a reader at any moment, and
a run killed at any moment, finds nothing half written but at most one torn last line, which readers ignore
and `repair` removes. Anything else that is not what was written is named, with its file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from refine_rl.errors import UserError
from refine_rl.run.files import PUT_BACK, Record, append, as_line, cut_torn_line, record_of, replace, sha256
from refine_rl.run.shapes import Shape

R = TypeVar("R")
Flaw = Callable[[Record], str | None]
TAKE_OUT = "Put the line back as it was, or take it out: no result depends on it."


class Table(Generic[R]):
    """The records of a file, a line each, of the form that its shape says. `sequence` makes what finds a flaw
    in the order of the lines; `way_out` says what to do about a damaged line, or about the file (None). Lines
    of a table `at_once` are on the disk when `append` returns: a power cut loses none."""

    def __init__(
        self,
        path: Path,
        shape: Shape[R],
        *,
        grows: bool = True,
        at_once: bool = False,
        sequence: Callable[[], Flaw] | None = None,
        way_out: Callable[[int | None], str] = lambda line: PUT_BACK,
    ) -> None:
        self.path = path  # as it was given, for words
        # Where the file is, whatever becomes of the current folder: a reward function may change it.
        self._file = path.absolute()
        self._shape, self._grows, self._sequence, self._way_out = shape, grows, sequence, way_out
        self._at_once = at_once

    # -- reading ------------------------------------------------------------------------------

    def exists(self) -> bool:
        return self._file.is_file()

    def read(self) -> Iterator[R]:
        """The records. Whole lines only: what follows the last line end is still being written. Raises
        UserError that names a line which is not what was written."""
        return map(self._shape.from_line, self.lines())

    def __call__(self) -> list[Record]:
        """All lines as they stand: `run.metrics()`."""
        return list(self.lines())

    def lines(self, known: Container[str] | None = None) -> Iterator[Record]:
        """The lines as they stand, read as by `read`; where prompts are `known` by their ids, each must be
        of one."""
        wrong_order = self._sequence() if self._sequence else lambda record: None
        for number, record, wrong in self._scan():
            if record is None or (wrong := wrong_order(record) or ""):
                raise self._broken(number, wrong)
            if known is not None and record["prompt_id"] not in known:
                raise self._broken(number, f"there is no prompt {record['prompt_id']!r}")
            yield record

    def sha256(self) -> str:
        return sha256(self._file.read_bytes())

    def step_before(self, line: int) -> int:
        """The step of the last whole line before this one; 0 where there is none."""
        last = 0
        for number, record, _ in self._scan():
            if number >= line:
                break
            last = record["step"] if record is not None else last
        return last

    def error(self, what: str) -> UserError:
        """That something about the file as a whole is wrong; `what` follows its name."""
        return UserError(f"{self.path}{what} {self._way_out(None)}")

    def _broken(self, number: int, wrong: str) -> UserError:
        return UserError(f"{self.path}:{number}: this line is damaged: {wrong}. {self._way_out(number)}")

    def _scan(self) -> Iterator[tuple[int, Record | None, str]]:
        """(number, record, "") of each whole line; (number, None, what is wrong) of a damaged one."""
        if not self.exists():
            return
        with self._file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    if not self._grows:
                        yield number, None, "the file ends in the middle of it"
                    return
                yield self._parsed(number, line)

    def _parsed(self, number: int, line: bytes) -> tuple[int, Record | None, str]:
        """As in `_scan`."""
        record, wrong = record_of(line)
        if record is not None and (flaw := self._shape.flaw(record)) is not None:
            return number, None, flaw
        return number, record, wrong

    # -- writing ------------------------------------------------------------------------------

    def append(self, *records: R) -> None:
        """In one write: they are there together or not at all."""
        if records:
            append(self._file, self.text(records), at_once=self._at_once)

    def replace(self, records: Iterable[R]) -> None:
        """These instead of all that were there."""
        replace(self._file, self.text(records))

    def repair(self) -> None:
        """Removes a torn last line."""
        if self._grows:
            cut_torn_line(self._file)

    def rewind(self, step: int) -> None:
        """Forgets the lines of later steps."""
        self.keep(lambda record: record["step"] <= step)

    def keep(self, wanted: Callable[[Record], bool]) -> None:
        """Rewrites the file with the lines that are `wanted`. A damaged one goes with those that are not;
        raises UserError where a line that is kept follows it."""
        kept: list[Record] = []
        damaged: tuple[int, str] | None = None
        if not self.exists():
            return
        for number, record, wrong in self._scan():
            if record is None:
                damaged = damaged or (number, wrong)
            elif wanted(record):
                if damaged is not None:
                    raise self._broken(*damaged)
                kept.append(record)
        replace(self._file, "".join(map(as_line, kept)))

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)

    def text(self, records: Iterable[R]) -> str:
        """What the file is with these records alone."""
        return "".join(as_line(self._shape.to_line(record)) for record in records)


class InOrder:
    """Finds the first line with which a step, or a group of one, is lost. The last step may be there in part,
    while it is being written.

    >>> flaw = InOrder()
    >>> [flaw({"step": step, "groups_in_step": 2}) for step in (1, 1, 2)]
    [None, None, None]
    >>> flaw({"step": 3, "groups_in_step": 2})
    '1 more groups of step 2 should stand before it'
    >>> InOrder()({"step": 2})
    'step 2 follows the start'
    """

    def __init__(self) -> None:
        self._step, self._left = 0, 0

    def __call__(self, record: Record) -> str | None:
        step, before = record["step"], self._step
        if step != before or not self._left:
            if self._left:
                return f"{self._left} more groups of step {before} should stand before it"
            if step != before + 1:
                return f"step {step} follows {f'step {before}' if before else 'the start'}"
            self._step, self._left = step, record.get("groups_in_step", 1)
        self._left -= 1
        return None


def first_of_each_step() -> Callable[[Record], bool]:
    """Takes the first line of each step."""
    seen: set[int] = set()

    def first(record: Record) -> bool:
        new = record["step"] not in seen
        seen.add(record["step"])
        return new

    return first
