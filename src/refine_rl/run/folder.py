"""RunFolder: the only code that knows a run's file names.

Files only grow by whole lines (one write each) or are replaced by a rename, so that a reader at any
moment, and a run killed at any moment, finds nothing half written but at most one torn last line,
which readers ignore and a resume removes. Anything else that is not what was written is named, with its
file and line. Beside it: `claim.py` (a folder becomes one run's), `files.py` (bytes and lines), `shapes.py`
(what a line must have), `checkpoints.py`, `lock.py`, `disk.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refine_rl.errors import DiskError, UserError, quoted
from refine_rl.llm.client import Call, Exchange
from refine_rl.llm.kept import exchange_record
from refine_rl.run.changes import Change, changes_between, changes_in_force
from refine_rl.run.checkpoints import Checkpoints, remove, write_folder
from refine_rl.run.claim import claimed, first_free, names, taken_by
from refine_rl.run.disk import saving
from refine_rl.run.files import Record, as_bytes, as_line
from refine_rl.run.lock import LOCK, Lock
from refine_rl.run.records import (
    comparison_from,
    comparison_text,
    group_from,
    group_record,
    outcome_from,
    outcome_record,
)
from refine_rl.run.source import reward_files, sha256, versions_now, where_from
from refine_rl.settings import Settings
from refine_rl.settings.file import dump_settings, run_tables, settings_from_run
from refine_rl.settings.toml_write import dump_toml
from refine_rl.types import Comparison, Group, Outcome, Prompt, Split, StepMetrics

__all__ = ["RunFolder", "free_name", "new_run"]

_GIVEN_PROMPTS = "given_prompts.jsonl"
_TIMES = "times.jsonl"
_REPLIES = "llm_replies.jsonl"
_SUM = "prompts_sha256"  # in config.toml
_UNDER_WAY = ".calls_under_way.jsonl"
_STEPPED = ("groups.jsonl", "metrics.jsonl", "validation.jsonl", "pool.jsonl")
_UNUSED = frozenset({LOCK, _GIVEN_PROMPTS, ".config.toml.new"})  # of a folder in which no run began
_GROWING = (*_STEPPED, "events.jsonl", "llm_calls.jsonl", _REPLIES, "quiz.jsonl", _TIMES, _UNDER_WAY)
_WHOLE = ("prompts.jsonl", "evaluations/")  # replaced as a whole: no line of theirs is ever torn
_EVIDENCE = ("comparison.json", "evaluations/base.jsonl", "evaluations/tuned.jsonl")
_ANSWERED_BY: dict[str, Split] = {
    "base": "held_out",
    "tuned": "held_out",
    "validation": "validation",
    "probe": "train",
}


class RunFolder(Checkpoints):
    """The files of one run. Reading never needs more than the folder itself."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: Lock | None = None
        self._at_work = False

    # -- life ---------------------------------------------------------------------------------

    @classmethod
    def claim(cls, path: Path) -> RunFolder:
        """A folder for a run to be created, held by this process alone until `create`'s run is closed with
        `let_go` or abandoned. Raises UserError where somebody else has it."""
        lock = claimed(path, _UNUSED)
        if lock is None:
            raise UserError(_taken(path))
        run = cls(path)
        run._lock = lock
        return run

    @classmethod
    def claim_free(cls, parent: Path, name: str) -> RunFolder:
        """`parent/name`, or `parent/name-2` ... where that is taken, held as by `claim`: two processes that
        ask at the same moment get two folders."""
        path, lock = first_free(parent, name, _UNUSED)
        run = cls(path)
        run._lock = lock
        return run

    @classmethod
    def create(cls, path: Path, settings: Settings, *, python_rewards: Sequence[str] = ()) -> RunFolder:
        """A new run in a folder that has no run yet; nobody holds it."""
        run = cls.claim(path)
        run.begin(settings, python_rewards=python_rewards)
        run.let_go()
        return run

    def begin(self, settings: Settings, *, python_rewards: Sequence[str] = ()) -> None:
        """Makes a run of a folder that was claimed."""
        self._save_config(settings, where_from(settings, python_rewards), versions_now())

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run."""
        if not (path / "config.toml").is_file():
            raise UserError(f"{path} is not a run: it has no config.toml.")
        return cls(path)

    def give_prompts(self, lines: str) -> Path:
        """Puts prompts that came from Python into the folder of a run to be begun; returns their file."""
        return self._replace(_GIVEN_PROMPTS, lines)

    def let_go(self) -> None:
        """Ends the hold of `claim`; others may write."""
        if self._lock is not None and not self._at_work:
            self._lock.release()
            self._lock = None

    def abandon(self) -> None:
        """Removes the folder of a run that was refused before it began (a mistake in the settings, a
        model that is not there), so that the next try finds its name free. With anything in it that a
        run has made, or in another process's hands, it stays."""
        if not self._root.is_dir():
            return
        if self._lock is None and (lock := Lock.take(self._root)) is not None:
            self._lock = lock
        if self._lock is None:
            return
        nothing = {*_UNUSED, "config.toml", _TIMES}
        if not self._under_way():
            nothing.add(_UNDER_WAY)
        if {p.name for p in self._root.iterdir()} <= nothing:
            # The lock goes last: as long as it is there, nobody takes the folder for a free one.
            for file in sorted(self._root.iterdir(), key=lambda p: p.name == LOCK):
                file.unlink()
            with contextlib.suppress(OSError):  # somebody has taken it up at this moment
                self._root.rmdir()
        self.let_go()

    @property
    def name(self) -> str:
        return self._root.resolve().name

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the run for one writer; a second one is refused. Who has claimed the folder goes on
        holding it."""
        claimed_before = self._lock is not None
        if self._lock is None:
            with saving(self.path):
                self._lock = Lock.take(self._root)
        if self._lock is None or self._at_work:
            raise UserError(f"{self.path} is being written by another process; wait for it or stop it.")
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False
            with contextlib.suppress(UserError, OSError):  # what ends the run is the news, not this
                if not self._under_way():
                    (self._root / _UNDER_WAY).unlink(missing_ok=True)
            if not claimed_before:
                self.let_go()

    # -- settings and prompts -----------------------------------------------------------------

    def settings(self) -> Settings:
        self._config()  # names what was cut off
        return settings_from_run(self._text("config.toml"), self.path)

    def save_settings(self, settings: Settings) -> None:
        """Settings once resolved further (the number format) or overridden at a resume; where the run
        came from stays as it was."""
        self._save_config(settings, self._config()["source"], self.versions())

    def _save_config(
        self, settings: Settings, source: Mapping[str, Any], versions: Mapping[str, str]
    ) -> None:
        tables = {"source": source, "versions": versions}
        self._replace("config.toml", dump_settings(settings) + "\n" + dump_toml(tables))

    def changes(self) -> list[str]:
        """What is not as it was when the run began, and may make a resume differ from an unbroken run."""
        then, now = self.versions(), versions_now()
        return [
            f"{name} was {then.get(name, 'absent')} and is {now.get(name, 'absent')}"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        ]

    def require_same_reward(self) -> None:
        """Raises UserError where a reward's file is another one than that which scored the base model.
        As long as nothing was scored, a file may be mended freely."""
        settings = self.settings()
        source = self._config().get("source", {})
        now = reward_files(settings)
        changed = [name for name, sha in source.get("reward_files", {}).items() if now.get(name) != sha]
        if not changed:
            return
        if self.outcomes("base") is not None:
            raise UserError(
                f"{', '.join(changed)} has changed since the base model was scored with it: base and tuned "
                f"would be measured by different rewards. Put it back; or start the training over, base "
                f"model included, with: {self._start_over()}"
            )
        self._save_config(settings, {**source, "reward_files": now}, self.versions())

    def require_same_model(self, now: Mapping[str, str], *, record: bool = False) -> None:
        """Raises UserError where a part of the base model (weights, tokenizer ...) has another hash in `now`
        than when the run began. `record`: as long as nothing was scored, `now` is put on record instead."""
        source = self._config().get("source", {})
        then = source.get("model", {})
        if not now or now == then:  # empty: no files on this machine to compare
            return
        changed = [part for part in dict.fromkeys((*then, *now)) if then.get(part) != now.get(part)]
        if record and (not then or self.outcomes("base") is None):
            self._save_config(self.settings(), {**source, "model": dict(now)}, self.versions())
        elif then:
            names = [part.replace("_", " ") for part in changed]
            done = self.outcomes("tuned") is not None
            raise UserError(
                f"The base model of {self.path} ({self.settings().model.name}) is another one than when the "
                f"run began; other are: {', '.join(names)}. What was trained and measured does not belong to "
                "it. Put its files back; or "
                + ("start a new run." if done else f"start the training over: {self._start_over()}")
            )

    def _start_over(self) -> str:
        return f"refine train --resume {quoted(self.path)} --from-step 0"

    def versions(self) -> dict[str, str]:
        """Package versions at the start of the run."""
        return {k: str(v) for k, v in self._config().get("versions", {}).items()}

    def created(self) -> datetime:
        """When the run began; a chat template that asks for the time is told this one, always."""
        return datetime.fromisoformat(self._config()["source"]["created"])

    def python_rewards(self) -> list[str]:
        """Names of reward functions that were given from Python, and so cannot be found from files."""
        return list(self._config().get("source", {}).get("python_rewards", []))

    def change(self, before: Settings, after: Settings, step: int) -> None:
        """Other settings from here on; each that is another one is an event, after which `step` is the last
        that was made under the old ones."""
        for change in changes_between(before, after, step):
            self.event("changed", change.key, f"{change.old} -> {change.new}", step, **change.values())
        self.save_settings(after)

    def changed_settings(self) -> list[Change]:
        """What was changed by hand since the run began and is in force, where steps were made under both."""
        return changes_in_force(self.events(), self.settings())

    def _config(self) -> dict[str, Any]:
        return run_tables(self._text("config.toml"), self.path)

    def save_prompts(self, prompts: Sequence[Prompt]) -> None:
        text = "".join(as_line(dataclasses.asdict(p)) for p in prompts)
        source = self._config()["source"]
        # First what the file will be: killed in between, the run has no prompts yet, and makes the same.
        self._save_config(self.settings(), {**source, _SUM: sha256(as_bytes(text))}, self.versions())
        self._replace("prompts.jsonl", text)

    def prompts(self) -> list[Prompt]:
        """Raises UserError where they are not those that the run began with."""
        path, file = self.path / "prompts.jsonl", self._root / "prompts.jsonl"
        if not file.is_file():
            if (self._root / "groups.jsonl").is_file() or (self._root / "evaluations/base.jsonl").is_file():
                raise UserError(f"{path} is gone. {self._way_out('prompts.jsonl')}")
            return []
        prompts = [
            Prompt(**{**record, "messages": tuple(record["messages"])})
            for record in self._lines("prompts.jsonl")
        ]
        written = self._config()["source"].get(_SUM)
        if written is not None and written != sha256(file.read_bytes()):
            raise UserError(
                f"{path} is not as the run wrote it: lines were changed, added or lost. "
                f"{self._way_out('prompts.jsonl')}"
            )
        return prompts

    # -- money --------------------------------------------------------------------------------

    def append_call(self, call: Call) -> None:
        """One call to an LLM. Nothing ever takes a line away: going back in training brings no money back."""
        self._append("llm_calls.jsonl", as_line(dataclasses.asdict(call)))

    def calls(self) -> list[dict[str, Any]]:
        """Every call of the run, over all resumes."""
        return list(self._lines("llm_calls.jsonl"))

    def append_exchange(self, exchange: Exchange) -> None:
        """What was asked in a call, and what was replied. Kept for ever, as the calls are."""
        self._append(_REPLIES, as_line(exchange_record(exchange)))

    @property
    def replies(self) -> Path:
        """The file of what was asked and replied; there is none before the first call, or where endpoints
        keep nothing."""
        return self.path / _REPLIES

    def exchanges(self) -> Iterator[Record]:
        """What was asked and replied, a record a call, in the order in which the calls ended."""
        return self._lines(_REPLIES)

    def call_sent(self, ticket: int, killed: Call) -> None:
        """A call is about to be sent. Where the process is killed before `call_done`, `repair` makes
        `killed` a line of the ledger: the call may have to be paid for."""
        self._append(_UNDER_WAY, as_line({"ticket": ticket, "call": dataclasses.asdict(killed)}))

    def call_done(self, ticket: int) -> None:
        """What came of the call is in the ledger."""
        self._append(_UNDER_WAY, as_line({"ticket": ticket, "done": True}))

    def _under_way(self) -> list[dict[str, Any]]:
        """Calls that were sent, and of whose end nothing is known."""
        calls: dict[int, dict[str, Any]] = {}
        for record in self._lines(_UNDER_WAY):
            if "call" in record:
                calls[record["ticket"]] = record["call"]
            else:
                calls.pop(record["ticket"], None)
        return list(calls.values())

    # -- quiz ---------------------------------------------------------------------------------

    def quiz_shelf(self) -> QuizShelf:
        """The quiz's questions. Going back in training keeps them: base and tuned get the same ones."""
        return QuizShelf(self)

    # -- training -----------------------------------------------------------------------------

    def append_groups(self, groups: Sequence[Group]) -> None:
        """All groups of one step, in one write: a step is there whole or not at all."""
        records = [group_record(g) | {"groups_in_step": len(groups)} for g in groups]
        self._append("groups.jsonl", "".join(map(as_line, records)))

    def groups(self) -> Iterator[dict[str, Any]]:
        """Lines of groups.jsonl as they are. Raises UserError where a step, or a group of one, is lost; the
        last step may be there in part, while it is being written."""
        return (record for _, record in self._whole_groups())

    def _whole_groups(self) -> Iterator[tuple[int, Record]]:
        step, left = 0, 0
        for number, record in self._numbered("groups.jsonl"):
            if record["step"] != step or not left:
                lost = f"{left} more groups of step {step} should stand before it"
                if left:
                    raise self._broken("groups.jsonl", number, lost)
                self._require_next("groups.jsonl", number, record["step"], step)
                step, left = record["step"], record["groups_in_step"]
            left -= 1
            yield number, record

    def _require_next(self, file: str, number: int, step: int, before: int) -> None:
        if step != before + 1:
            after = f"step {before}" if before else "the start"
            raise self._broken(file, number, f"step {step} follows {after}")

    def recorded_steps(self, after: int = 0) -> dict[int, list[Group]]:
        """The groups of every step later than `after`, as records again."""
        prompts = {p.id: p for p in self.prompts()}
        steps: dict[int, list[Group]] = {}
        for number, record in self._whole_groups():
            if record["prompt_id"] not in prompts:
                raise self._broken("groups.jsonl", number, f"there is no prompt {record['prompt_id']!r}")
            if record["step"] > after:
                steps.setdefault(record["step"], []).append(group_from(record, prompts))
        return steps

    def append_metrics(self, metrics: StepMetrics) -> None:
        self._append("metrics.jsonl", as_line(dataclasses.asdict(metrics)))

    def metrics(self) -> list[dict[str, Any]]:
        """A line a step. Raises UserError where one is lost."""
        lines: list[dict[str, Any]] = []
        for number, record in self._numbered("metrics.jsonl"):
            self._require_next("metrics.jsonl", number, record["step"], len(lines))
            lines.append(record)
        return lines

    def history(self) -> list[StepMetrics]:
        """metrics.jsonl as records."""
        return [StepMetrics(**m) for m in self.metrics()]

    def append_pool(self, records: Sequence[Mapping[str, Any]]) -> None:
        """What the choice of a step's prompts set aside and took back, in one write."""
        if records:
            self._append("pool.jsonl", "".join(map(as_line, records)))

    def pool(self) -> list[dict[str, Any]]:
        """Which prompts were set aside, why, and which came back: a line each time."""
        return list(self._lines("pool.jsonl"))

    def append_validation(self, record: Mapping[str, Any]) -> None:
        self._append("validation.jsonl", as_line(record))

    def validation(self) -> list[dict[str, Any]]:
        """A line for each scoring of the validation prompts; step 0 is the untrained model."""
        return list(self._lines("validation.jsonl"))

    @contextlib.contextmanager
    def timed(self, stage: str, step: int | None = None) -> Iterator[None]:
        """Puts on record what a stage outside of the steps took, however it ends. Nothing takes a line away:
        what is done again after a stop takes its time again."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - began, 4)
            self._append(_TIMES, as_line({"stage": stage, "step": step, "seconds": seconds}))

    def times(self) -> list[dict[str, Any]]:
        """Seconds spent outside of the steps: a line for each time that a stage was gone through."""
        return list(self._lines(_TIMES))

    def event(self, kind: str, name: str, text: str, step: int | None = None, **more: Any) -> None:
        """Something a person should read later: started, warning, guard, resumed, best ..."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"time": now, "step": step, "kind": kind, "name": name, "text": text, **more}
        self._append("events.jsonl", as_line(line))

    def events(self) -> list[dict[str, Any]]:
        return list(self._lines("events.jsonl"))

    def repair(self) -> None:
        """Removes what a killed run may leave: torn last lines, a last step's groups written in part, and
        checkpoints half written. Calls to LLMs that were under way get their lines. Raises UserError, which
        names the file and the line, where anything else is not what the run wrote."""
        self._cut_torn_lines()
        self._remove_leftovers()
        for leftover in self._root.glob(f".{self.model.name}.*"):
            remove(leftover)
        for file in _GROWING:
            for _ in self._lines(file):
                pass
        self.metrics()
        known = {p.id for p in self.prompts()}
        there: dict[int, tuple[int, int]] = {}
        for number, record in self._whole_groups():
            if record["prompt_id"] not in known:
                raise self._broken("groups.jsonl", number, f"there is no prompt {record['prompt_id']!r}")
            there = {record["step"]: (there.get(record["step"], (0, 0))[0] + 1, record["groups_in_step"])}
        for step, (found, wanted) in there.items():  # of the last step
            if found < wanted:
                self._keep_lines("groups.jsonl", lambda record: record["step"] < step)  # noqa: B023
        if killed := self._under_way():
            self._append("llm_calls.jsonl", "".join(map(as_line, killed)))
        (self._root / _UNDER_WAY).unlink(missing_ok=True)

    def rewind(self, step: int) -> None:
        """Forgets everything that training did after the checkpoint of `step` (0: all of it, and what the
        base model was scored with). What is damaged goes too, where nothing that is kept follows it."""
        if step and step not in self.checkpoints():
            there = ", ".join(map(str, (0, *self.checkpoints())))
            raise UserError(f"{self.path} has no checkpoint of step {step}; it has {there}.")
        self._cut_torn_lines()
        for file in _STEPPED:
            self._keep_lines(file, lambda record: record["step"] <= step)
        self._keep_lines("metrics.jsonl", _each_once())
        # There are these where the tuned model's answers were taken away by hand.
        (self._root / "comparison.json").unlink(missing_ok=True)
        remove(self._root / self.model.name)
        if step == 0:
            shutil.rmtree(self._root / "evaluations", ignore_errors=True)
            (self._root / "validation.jsonl").unlink(missing_ok=True)
        for later in self.checkpoints():
            if later > step:
                remove(self.checkpoint(later))
        where = f"step {step}" if step else "the start of training"
        self.event("rewound", "rewound", f"Back to {where}; what came later was forgotten.", step)

    def _cut_torn_lines(self) -> None:
        for file in _GROWING:
            self._cut_torn_line(file)

    def recorded_to(self) -> int:
        """The last step whose groups and metrics are both on record."""
        last = 0
        for record in self.groups():
            last = record["step"]
        return min(last, len(self.metrics()))

    def _grows(self, file: str) -> bool:
        return not file.startswith(_WHOLE)

    def _way_out(self, file: str, line: int | None = None) -> str:
        if file in _GROWING and file not in (*_STEPPED, "quiz.jsonl"):
            return "Put the line back as it was, or take it out: no result depends on it."
        again = f"refine train --resume {quoted(self.path)}"
        if file in ("evaluations/base.jsonl", "evaluations/tuned.jsonl"):
            return f"Put it back as it was, or remove it: {again} makes the same answers again."
        if file not in _STEPPED or line is None or (self._root / "evaluations/tuned.jsonl").is_file():
            return "Put it back as it was."
        last = 0
        for number, record, _ in self._read(file):
            if number >= line:
                break
            last = record["step"] if record is not None else last
        if file == "groups.jsonl":
            last -= 1  # the line may have been one of that step's
        to = max((step for step in self.checkpoints() if step <= last), default=0)
        return f"Put it back as it was; or train again from before it: {again} --from-step {to}"

    # -- evidence -----------------------------------------------------------------------------

    def save_outcomes(self, which: str, outcomes: Sequence[Outcome]) -> None:
        """What a model did with the held-out prompts (`which`: "base" or "tuned", or of an eval)."""
        self._replace(f"evaluations/{which}.jsonl", "".join(as_line(outcome_record(o)) for o in outcomes))

    def outcomes(self, which: str, prompts: Sequence[Prompt] | None = None) -> list[Outcome] | None:
        """Outcomes saved before, or None where there are none. Raises UserError where one is lost."""
        file = f"evaluations/{which}.jsonl"
        if not (self._root / file).is_file():
            return None
        by_id = {p.id: p for p in (self.prompts() if prompts is None else prompts)}
        found = []
        for number, record in self._numbered(file):
            if record["prompt_id"] not in by_id:
                raise self._broken(file, number, f"there is no prompt {record['prompt_id']!r}")
            found.append(outcome_from(record, by_id))
        split = _ANSWERED_BY.get(which) if prompts is None else None
        answered = {outcome.prompt.id for outcome in found}
        lost = [name for name, p in by_id.items() if p.split == split and name not in answered]
        if lost:
            raise UserError(
                f"{self.path / file}: the answers to {len(lost)} prompts are lost, to {lost[0]!r} for one. "
                f"{self._way_out(file)}"
            )
        return found

    def save_comparison(self, comparison: Comparison) -> Path:
        """The run's own comparison."""
        return self._replace("comparison.json", comparison_text(comparison))

    def save_evaluation(self, name: str, comparison: Comparison) -> Path:
        """A later comparison, beside the run's own."""
        return self._replace(f"evaluations/{name}.json", comparison_text(comparison))

    def free_evaluation(self, name: str) -> str:
        """`name`, or `name-2` ... where there is an evaluation of that name."""
        return _free(name, lambda free: (self._root / f"evaluations/{free}.json").exists())

    def comparison(self) -> Comparison | None:
        if not (self._root / "comparison.json").is_file():
            return None
        try:
            return comparison_from(json.loads(self._text("comparison.json")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path / 'comparison.json'} is damaged. Remove it: `refine train --resume "
                f"{quoted(self.path)}` makes it again from the answers on record."
            ) from error

    def finished(self) -> bool:
        """Whether nothing is left to do: trained, compared, and the model is there as it was written."""
        there = all((self._root / file).is_file() for file in _EVIDENCE)
        ended = self._ended()
        return there and ended is not None and ended.get("model", "") == self._model_sum()

    def model_changed(self) -> bool:
        """Whether the tuned weights are others than the run wrote; False where that is not known."""
        known = (self._ended() or {}).get("model")
        return known is not None and known != self._model_sum()

    def end(self, text: str, step: int) -> None:
        """Puts on record that everything is done, and what the model is; once, unless it is another one."""
        ended, model = self._ended(), self._model_sum()
        if ended is None or ended.get("model", "") != model:
            self.event("finished", "finished", text, step, model=model)

    def _ended(self) -> Record | None:
        """The newest event that says that everything is done."""
        return next((e for e in reversed(self.events()) if e["kind"] == "finished"), None)

    def _model_sum(self) -> str:
        """SHA-256 of the tuned weights; of nothing where there are none."""
        found = hashlib.sha256()
        for file in sorted((self._root / self.model.name).glob("*.safetensors")):
            with file.open("rb") as weights:
                found.update(hashlib.file_digest(weights, "sha256").digest())
        return found.hexdigest()

    @property
    def model(self) -> Path:
        """The tuned model's folder (it exists once training has ended)."""
        return self.path / "model"

    def write_model(self, write: Callable[[Path], None]) -> None:
        write_folder(self._root / self.model.name, write)

    @property
    def report(self) -> Path:
        """The page (it is there once training has ended or a guard has stopped it)."""
        return self.path / "report.html"

    def save_report(self, html: str) -> Path:
        return self._replace(self.report.name, html)


class QuizShelf:
    """What was made of each source, by a key; the newest line of a key counts. Read once, so that it
    belongs to one writer."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._made: dict[str, dict[str, Any]] | None = None

    def get(self, key: str) -> dict[str, Any] | None:
        return self._all().get(key)

    def put(self, key: str, made: dict[str, Any]) -> None:
        self._all()[key] = made
        self._run._append("quiz.jsonl", as_line({"key": key, "made": made}))

    def _all(self) -> dict[str, dict[str, Any]]:
        if self._made is None:
            self._made = {record["key"]: record["made"] for record in self._run._lines("quiz.jsonl")}
        return self._made


@contextlib.contextmanager
def new_run(path: Path | None, name: str) -> Iterator[RunFolder]:
    """The folder of a run to be begun: `path`, or a new one below runs/ after `name`. It is this process's
    alone inside, and gone afterwards where the run was refused before it began, or no file could be
    written."""
    folder = RunFolder.claim(path) if path is not None else RunFolder.claim_free(Path("runs"), name)
    try:
        yield folder
    except (UserError, DiskError):
        with contextlib.suppress(OSError):
            folder.abandon()
        raise
    finally:
        folder.let_go()


def free_name(parent: Path, name: str) -> Path:
    """`parent/name`, or `parent/name-2` ... where that is taken. It may be taken by the time it is used:
    `RunFolder.claim_free` takes it at once."""
    return parent / _free(name, lambda free: taken_by(parent / free, _UNUSED))


def _free(name: str, taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name-2`, `name-3` ... that is not taken."""
    return next(free for free in names(name) if not taken(free))


def _each_once() -> Callable[[Record], bool]:
    """Takes the first line of each step."""
    seen: set[int] = set()

    def keep(record: Record) -> bool:
        new = record["step"] not in seen
        seen.add(record["step"])
        return new

    return keep


def _taken(path: Path) -> str:
    if (path / "config.toml").is_file():
        return (
            f"{path} already exists. Go on with it: refine train --resume {quoted(path)}; "
            "or choose another folder with --run."
        )
    return f"{path} already exists and is no run; choose another folder with --run."
