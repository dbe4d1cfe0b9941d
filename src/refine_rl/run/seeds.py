"""A folder of runs that differ in their seed alone: `seed-0`, `seed-1` ..., each an ordinary run, and
`seeds.json`, which says how many there are to be and what came of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from refine_rl.errors import UserError, quoted
from refine_rl.run.files import names, read_text, saving
from refine_rl.run.folder import RunFolder
from refine_rl.run.life import taken_by
from refine_rl.run.near import RUNS
from refine_rl.settings import Settings
from refine_rl.types import Estimate, Verdict

SUMMARY = "seeds.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class OfSeed:
    """What came of one of the runs; `difference` is None where nothing could be compared."""

    seed: int
    run: str
    verdict: Verdict
    difference: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OverSeeds:
    """The runs of so many `seeds` that are done, and the mean over them of what the tuned model has more than
    base, with its 95 % interval over training seeds (None where fewer than two runs have a difference)."""

    seeds: int
    runs: tuple[OfSeed, ...]
    difference: Estimate | None


class SeedsFolder:
    """The folder that holds the runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> SeedsFolder | None:
        """The folder at `path`; None where it is none."""
        return cls(path) if (path / SUMMARY).is_file() else None

    @classmethod
    def begin(cls, path: Path | None, name: str, settings: Settings, seeds: int) -> SeedsFolder:
        """A new folder with the first of `seeds` runs begun: `path`, or a free one below runs/. Raises
        UserError where there is something already."""
        if path is None:
            path = next(RUNS / free for free in names(name) if not taken_by(RUNS / free))
        elif taken_by(path):
            raise UserError(f"{path} is there already, and not empty: name another folder with --run.")
        found = cls(path)
        RunFolder.create(found._of(0), settings)
        found.save(OverSeeds(seeds=seeds, runs=(), difference=None))
        return found

    @property
    def resume(self) -> str:
        """The command that goes on with all of them."""
        return f"refine train --resume {quoted(self.path)}"

    @property
    def seeds(self) -> int:
        """How many runs there are to be."""
        try:
            count = json.loads(read_text(self.path / SUMMARY))["seeds"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{self.path / SUMMARY} is damaged: write {{"seeds": N}} into it, N as many as you want.'
            ) from error
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise UserError(f"{self.path / SUMMARY}: `seeds` is {count!r}, and has to be 2 or more.")
        return count

    def run(self, number: int) -> RunFolder:
        """Run `number`, begun with the settings of the first one and the seed that is `number` further on."""
        path, first = self._of(number), RunFolder.open(self._of(0))
        if number and not RunFolder(path).begun:
            settings = first.settings()
            grpo = settings.grpo.model_copy(update={"seed": settings.grpo.seed + number})
            RunFolder.create(path, settings.model_copy(update={"grpo": grpo}))
        return RunFolder.open(path)

    def runs(self) -> list[RunFolder]:
        """Those that were begun."""
        every = (RunFolder(self._of(number)) for number in range(self.seeds))
        return [run for run in every if run.begun]

    def save(self, found: OverSeeds) -> Path:
        """Writes seeds.json anew."""
        file, aside = self.path / SUMMARY, self.path / f".{SUMMARY}.new"
        with saving(self.path):
            aside.write_text(json.dumps(asdict(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            aside.replace(file)
        return file

    def _of(self, number: int) -> Path:
        return self.path / f"seed-{number}"
