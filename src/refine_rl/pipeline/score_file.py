"""Groups of completions in a file -> their scores in another, line by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from refine_rl.errors import GuardStop, Interrupted, MachineError, UserError
from refine_rl.llm.background import all_of, run_blocking
from refine_rl.llm.kept import keep_in
from refine_rl.llm.meter import meter
from refine_rl.pipeline.score import Asked, Judges, asked, in_flags
from refine_rl.progress import Pause, never
from refine_rl.prompts.json_rows import RowError, first_broken, read_json
from refine_rl.rewards.judges.panel import Panel
from refine_rl.run.files import saving
from refine_rl.settings.file import read_text

_IN_VAIN = 8  # groups at the beginning of which nothing can be used, before the work is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What has been scored so far: `asked` are the scores for which a judge was asked (an answer alone in its
    group needs none), `unusable` the replies that could not be used. The cost is None where a price is
    unknown."""

    groups: int = 0
    scores: int = 0
    asked: int = 0
    missing: int = 0
    calls: int = 0
    unusable: int = 0
    cost_usd: float | None = 0.0

    def plus(self, more: Tally) -> Tally:
        """Both together.

        >>> Tally(groups=1, cost_usd=0.5).plus(Tally(groups=1, cost_usd=None))
        Tally(groups=2, scores=0, asked=0, missing=0, calls=0, unusable=0, cost_usd=None)
        """
        pairs = {name: (value, getattr(more, name)) for name, value in asdict(self).items()}
        both: dict[str, Any] = {n: None if None in pair else sum(pair) for n, pair in pairs.items()}
        return Tally(**both)


def score_file(
    path: Path,
    out: Path,
    judges: Judges,
    *,
    replies: Path | None = None,
    pause: Pause = never,
    note: Callable[[str], None] = lambda text: None,
    progress: Callable[[Tally, int], None] = lambda tally, groups: None,
) -> Tally:
    """Scores every group of a JSONL file; the results stand in `out`, in the order of the input.

    Lines are written to OUT.part, which gets its name when all are there. Raises UserError that names
    every broken line before any call is made; what stops the work on the way (MachineError also where of the
    first groups nothing can be used) says where the lines are. What the judges were asked and replied goes
    into the new file `replies`, where one is named.
    """
    groups = read_groups(path)
    if out.exists():
        raise UserError(f"{out} exists already; name a new file.")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first.")
    part = out.with_name(f"{out.name}.part")
    judges.panel(judges.connect(note))  # a mistake in their names leaves no file behind
    connections = judges.connect(note, keep_in(replies))
    panel = judges.panel(connections)
    with _opened(part) as file:
        work = _Work(groups, panel, file, progress)

        async def everything() -> None:
            try:
                # Groups that wait for a slow reply do not keep the endpoint idle.
                await work.run(workers=2 * judges.concurrency)
            finally:
                await connections.close()

        try:
            run_blocking(everything, pause)
        except GuardStop as stop:
            advice = "Raise --dollars to go on." if stop.guard == "budget" else stop.advice
            what = stop.what.replace("budget.dollars", "--dollars")
            raise GuardStop(stop.guard, what, f"{advice}\n{work.where(part)}") from stop
        except (MachineError, Interrupted) as error:
            what = in_flags(str(error)).replace("a smaller `concurrency`", "a smaller --concurrency")
            raise type(error)(f"{what}\n{work.where(part)}") from error
    part.replace(out)
    return work.tally


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with saving(path):
        file = path.open("w", encoding="utf-8", errors="replace", newline="\n")
    try:
        yield file
    finally:
        with suppress(OSError):  # every line was flushed; what a full disk did not take fails here again
            file.close()


class _Work:
    """Many groups at once, written in their order."""

    def __init__(
        self,
        groups: Sequence[Asked],
        panel: Panel,
        file: IO[str],
        progress: Callable[[Tally, int], None],
    ) -> None:
        self.tally = Tally()
        self._asked = 0  # groups for which a judge was asked
        self._groups = groups
        self._panel = panel
        self._file = file
        self._progress = progress
        self._ready: dict[int, tuple[dict[str, Any], Tally]] = {}

    async def run(self, workers: int) -> None:
        left = iter(enumerate(self._groups))
        await all_of(self._worker(left) for _ in range(min(workers, len(self._groups))))

    def where(self, part: Path) -> str:
        """What a person can do with what was done so far."""
        if not self.tally.groups:
            part.unlink()
            return "Nothing was scored yet."
        return (
            f"{self.tally.groups} of {len(self._groups)} groups are in {part}. The same command again takes "
            "the replies that were paid for from the cache."
        )

    async def _worker(self, left: Iterator[tuple[int, Asked]]) -> None:
        for place, group in left:
            self._ready[place] = await self._scored(group)
            while self.tally.groups in self._ready:
                self._write(*self._ready.pop(self.tally.groups))

    async def _scored(self, group: Asked) -> tuple[dict[str, Any], Tally]:
        with meter() as counted:
            scores = await self._panel.score_group(*group.as_attempts())
        line = {
            "id": group.id,
            "scores": [{"value": s.value, "status": s.status, "explanation": s.explanation} for s in scores],
            "agreement": scores[0].agreement,
            "calls": counted.calls,
            "cost_usd": counted.cost_usd,
        }
        return line, Tally(
            groups=1,
            scores=len(scores),
            asked=len(scores) if counted.calls else 0,
            missing=sum(s.status == "missing" for s in scores),
            calls=counted.calls,
            unusable=counted.unusable,
            cost_usd=counted.cost_usd,
        )

    def _write(self, line: Mapping[str, Any], more: Tally) -> None:
        with saving(Path(self._file.name)):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        self.tally = self.tally.plus(more)
        self._progress(self.tally, len(self._groups))
        self._asked += bool(more.asked)
        if self._asked == _IN_VAIN and self.tally.missing == self.tally.asked:
            why = next(score["explanation"] for score in line["scores"] if score["value"] is None)
            raise MachineError(
                f"No reply about the first {_IN_VAIN} groups could be used. The last reason: {why}"
            )


def read_groups(path: Path) -> list[Asked]:
    """The groups of a JSONL file, a line {"id", "messages", "completions"} each; other keys are left alone.

    Raises UserError that names every broken line, and ids that stand twice.
    """
    text = read_text(path, way_out='give a file with a line {"id", "messages", "completions"} for each group')
    groups: list[Asked] = []
    broken: list[str] = []
    first_with_id: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: it also splits at U+2028
        if not line.strip():
            continue
        try:
            group = asked(read_json(line))
            first = first_with_id.setdefault(str(group.id), number)
            if first != number:
                raise RowError(f"has the id {group.id!r}, which line {first} has already")
            groups.append(group)
        except RowError as error:
            broken.append(f"{path}:{number}: {error}")
    if broken:
        raise UserError(first_broken(broken))
    if not groups:
        raise UserError(f"{path}: there are no groups in it")
    return groups
