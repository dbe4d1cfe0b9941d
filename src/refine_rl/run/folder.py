"""RunFolder: the only code that knows a run's file names.

It is a list of tables (`tables.py`; one is a file of lines, `table.py`, whose form is in `shapes.py`) and a
few files and folders that are there whole or not at all: the settings (`config.py`), comparisons, the model
and the page (`evidence.py`), and `checkpoints.py`. Beside it: `life.py` (a folder becomes one run's, with
`lock.py`), and `files.py` (bytes).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from refine_rl.errors import DiskError, UserError
from refine_rl.run.changes import Change, changes_between, changes_in_force
from refine_rl.run.checkpoints import remove
from refine_rl.run.evidence import Evidence
from refine_rl.run.life import Life
from refine_rl.run.near import RUNS
from refine_rl.run.records import group_from, group_record
from refine_rl.run.rivals import FOLDER, RivalFiles
from refine_rl.run.table import first_of_each_step
from refine_rl.settings import Settings
from refine_rl.types import Group, SFTMetrics, StepMetrics


class RunFolder(Life, Evidence):
    """The files of one run. Reading never needs more than the folder itself."""

    @property
    def name(self) -> str:
        return self._root.resolve().name

    @property
    def sft(self) -> RunFolder:
        """The run of the supervised fine-tuning with which this one begins; a folder in its own."""
        return RunFolder(self.path / "sft")

    def rival(self, name: str) -> RivalFiles:
        """What there is of a rival of the tuned model."""
        return RivalFiles(self._root, name, self.tried[name])

    @property
    def ended(self) -> bool:
        """Whether it is a run in which nothing is left to do."""
        return self.begun and self.finished()

    # -- settings -----------------------------------------------------------------------------

    def settings(self) -> Settings:
        return self.config.settings()

    def planned_steps(self) -> int:
        """How many steps of training there are to be; of supervised fine-tuning, once its rows are known."""
        if self.config.kind() == "sft":
            return int(self.config.source().get("sft_steps", 0))
        return self.settings().grpo.steps

    def change(self, before: Settings, after: Settings, step: int) -> None:
        """Other settings from here on; each that is another one is an event, after which `step` is the last
        that was made under the old ones."""
        for change in changes_between(before, after, step):
            self.event(
                "changed", change.key, f"{change.old} -> {change.new}", step, old=change.old, new=change.new
            )
        self.config.save(after)

    def changed_settings(self) -> list[Change]:
        """What was changed by hand since the run began and is in force, where steps were made under both."""
        return changes_in_force(self.events(), self.settings())

    # -- training -----------------------------------------------------------------------------

    def append_groups(self, groups: Sequence[Group]) -> None:
        """All groups of one step, in one write: a step is there whole or not at all."""
        self.groups.append(*(group_record(g) | {"groups_in_step": len(groups)} for g in groups))

    def recorded_steps(self, after: int = 0) -> dict[int, list[Group]]:
        """The groups of every step later than `after`, as records again."""
        prompts = {p.id: p for p in self.prompts()}
        steps: dict[int, list[Group]] = {}
        for record in self.groups.lines(prompts):
            if record["step"] > after:
                steps.setdefault(record["step"], []).append(group_from(record, prompts))
        return steps

    def recorded_to(self) -> int:
        """The last step of which everything is on record: its metrics, and the groups that it learned
        from."""
        steps = len(self.metrics())
        if self.config.kind() == "sft":
            return steps
        return min(max((record["step"] for record in self.groups.lines()), default=0), steps)

    def history(self) -> list[StepMetrics]:
        """metrics.jsonl of a GRPO run as records."""
        return [m for m in self.metrics.read() if isinstance(m, StepMetrics)]

    def sft_history(self) -> list[SFTMetrics]:
        """metrics.jsonl of a run of supervised fine-tuning as records."""
        return [m for m in self.metrics.read() if isinstance(m, SFTMetrics)]

    # -- after a stop -------------------------------------------------------------------------

    def repair(self) -> None:
        """Removes what a killed run may leave: torn last lines, a last step's groups written in part, and
        checkpoints half written. Calls to LLMs that were under way get their lines. Raises UserError, which
        names the file and the line, where anything else is not what the run wrote."""
        for table in self._growing:
            table.repair()
        self.remove_leftovers()
        for leftover in self._root.glob(f".{self.model.name}.*"):
            remove(leftover)
        for table in self._growing:
            for _ in table.lines():
                pass
        last, found, wanted = 0, 0, 0
        for record in self.groups.lines({p.id for p in self.prompts()}):
            found = found + 1 if record["step"] == last else 1
            last, wanted = record["step"], record["groups_in_step"]
        if found < wanted:
            self.groups.rewind(last - 1)
        self.calls.append(*self.under_way.calls())
        self.under_way.table.remove()

    def rewind(self, step: int) -> None:
        """Forgets everything that training did after the checkpoint of `step` (0: all of it, and what the
        base model was scored with). What is damaged goes too, where nothing that is kept follows it."""
        if step and step not in self.checkpoints():
            there = ", ".join(map(str, (0, *self.checkpoints())))
            raise UserError(f"{self.path} has no checkpoint of step {step}; it has {there}.")
        for table in self._growing:
            table.repair()
        for table in self._stepped:
            table.rewind(step)
        self.metrics.keep(first_of_each_step())
        # There are these where the tuned model's answers were taken away by hand.
        (self._root / "comparison.json").unlink(missing_ok=True)
        (self._root / "evaluations/probes/tuned.json").unlink(missing_ok=True)
        remove(self._root / self.model.name)
        if step == 0:
            shutil.rmtree(self._root / "evaluations", ignore_errors=True)
            shutil.rmtree(self._root / "comparisons", ignore_errors=True)
            shutil.rmtree(self._root / FOLDER, ignore_errors=True)
            self.validation.remove()
        for later in self.checkpoints():
            if later > step:
                remove(self.checkpoint(later))
        where = f"step {step}" if step else "the start of training"
        self.event("rewound", "rewound", f"Back to {where}; what came later was forgotten.", step)


@contextlib.contextmanager
def new_run(path: Path | None, name: str) -> Iterator[RunFolder]:
    """The folder of a run to be begun: `path`, or a new one below runs/ after `name`. It is this process's
    alone inside, and gone afterwards where the run was refused before it began, or no file could be
    written."""
    folder = RunFolder.claim(path) if path is not None else RunFolder.claim_free(RUNS, name)
    try:
        yield folder
    except (UserError, DiskError):
        with contextlib.suppress(OSError):
            folder.abandon()
        raise
    finally:
        folder.let_go()
