"""A folder of runs that differ in their seed alone: `seed-0`, `seed-1` ..., each an ordinary run, and
`seeds.json`, which says how many there are to be and what came of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from refine_rl.errors import UserError, quoted
from refine_rl.run.files import names, read_text, saving, write_whole
from refine_rl.run.folder import RunFolder
from refine_rl.run.from_python import call
from refine_rl.run.life import taken_by
from refine_rl.run.near import RUNS, SEEDS
from refine_rl.settings import Settings
from refine_rl.types import Estimate, Verdict


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
        return cls(path) if (path / SEEDS).is_file() else None

    @classmethod
    def begin(
        cls,
        path: Path | None,
        name: str,
        settings: Settings,
        seeds: int,
        *,
        python_rewards: Sequence[str] = (),
        prompts: str | None = None,
    ) -> SeedsFolder:
        """A new folder with the first of `seeds` runs begun: `path`, or a free one below runs/. `prompts` are
        the lines of a file, where they came from Python. Raises UserError where there is something
        already."""
        if path is None:
            path = next(RUNS / free for free in names(name) if not taken_by(RUNS / free))
        elif taken_by(path):
            raise UserError(f"{path} is there already, and not empty: name another folder with --run.")
        found = cls(path)
        first = RunFolder.claim(found._of(0))
        if prompts is not None:
            settings = settings.with_prompts(first.give_prompts(prompts))
        first.begin(settings, python_rewards=python_rewards)
        first.let_go()
        found.save(OverSeeds(seeds=seeds, runs=(), difference=None))
        return found

    @property
    def resume(self) -> str:
        """The command that goes on with all of them."""
        return f"refine train --resume {quoted(self.path)}"

    @property
    def call_to_resume(self) -> str:
        """The same from Python, with the code that was given there."""
        given = self.run(0).config.given().arguments
        return call("resume_seeds", repr(str(self.path)), given)

    @property
    def seeds(self) -> int:
        """How many runs there are to be."""
        try:
            count = json.loads(read_text(self.path / SEEDS))["seeds"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{self.path / SEEDS} is damaged: write {{"seeds": N}} into it, N as many as you want.'
            ) from error
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise UserError(f"{self.path / SEEDS}: `seeds` is {count!r}, and has to be 2 or more.")
        return count

    def run(self, number: int) -> RunFolder:
        """Run `number`, begun with the settings of the first one and the seed that is `number` further on."""
        path, first = self._of(number), RunFolder.open(self._of(0))
        if number and not RunFolder(path).begun:
            settings = first.settings()
            grpo = settings.grpo.model_copy(update={"seed": settings.grpo.seed + number})
            given = first.config.given().rewards
            RunFolder.create(path, settings.model_copy(update={"grpo": grpo}), python_rewards=given)
        return RunFolder.open(path)

    def runs(self) -> list[RunFolder]:
        """Those that were begun."""
        every = (RunFolder(self._of(number)) for number in range(self.seeds))
        return [run for run in every if run.begun]

    @property
    def report(self) -> Path:
        """The page of all runs, with links to their own."""
        return self.path / "report.html"

    def save_report(self, html: str) -> Path:
        """Writes the page of all runs anew."""
        write_whole(self.report, html)
        return self.report

    def abandon(self) -> None:
        """Removes the folder where its first run was refused before it began, so that the next try finds the
        name free."""
        first = RunFolder(self._of(0))
        first.abandon()
        if first.path.is_dir() or {p.name for p in self.path.iterdir()} != {SEEDS}:
            return
        with contextlib.suppress(OSError):
            (self.path / SEEDS).unlink()
            self.path.rmdir()

    def save(self, found: OverSeeds) -> Path:
        """Writes seeds.json anew."""
        file, aside = self.path / SEEDS, self.path / f".{SEEDS}.new"
        with saving(self.path):
            aside.write_text(json.dumps(asdict(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            aside.replace(file)
        return file

    def _of(self, number: int) -> Path:
        return self.path / f"seed-{number}"
