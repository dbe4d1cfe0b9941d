"""RunFolder: the only code that knows a run's file names.

Files only grow by whole lines (one write each) or are replaced by a rename, so that a reader at any
moment, and a run killed at any moment, finds nothing half written but at most one torn last line,
which readers ignore and a resume removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from refine_rl.config import Settings
from refine_rl.config_file import dump_settings, settings_from_run
from refine_rl.errors import UserError
from refine_rl.llm.client import Call, Exchange
from refine_rl.llm.kept import exchange_record
from refine_rl.records import (
    comparison_from,
    comparison_text,
    group_from,
    group_record,
    outcome_from,
    outcome_record,
)
from refine_rl.toml_write import dump_toml
from refine_rl.types import Comparison, Group, Outcome, Prompt, StepMetrics

_GIVEN_PROMPTS = "given_prompts.jsonl"
_TIMES = "times.jsonl"
_REPLIES = "llm_replies.jsonl"
_UNDER_WAY = ".calls_under_way.jsonl"
_PACKAGES = ("refine-rl", "torch", "transformers", "peft", "accelerate", "safetensors", "numpy")


class RunFolder:
    """The files of one run. Reading never needs more than the folder itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- life ---------------------------------------------------------------------------------

    @staticmethod
    def require_new(path: Path) -> None:
        """Raises UserError where there are files already: nothing is ever overwritten."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"{path} already exists. Go on with it: refine train --resume {path}; "
                "or choose another folder with --run."
            )

    @classmethod
    def create(cls, path: Path, settings: Settings, *, python_rewards: Sequence[str] = ()) -> RunFolder:
        """A new run in a folder that has no run yet."""
        if (path / "config.toml").exists() or not _only_given_prompts(path):
            cls.require_new(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run._save_config(settings, _source(settings, python_rewards), _versions())
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run."""
        if not (path / "config.toml").is_file():
            raise UserError(f"{path} is not a run: it has no config.toml.")
        return cls(path)

    @classmethod
    def give_prompts(cls, path: Path, lines: str) -> Path:
        """Puts prompts that came from Python into the folder of a run to be created; returns their file."""
        cls.require_new(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)._replace(_GIVEN_PROMPTS, lines)

    def abandon(self) -> None:
        """Removes the folder of a run that was refused before it began (a mistake in the settings, a
        model that is not there), so that the next try finds its name free. With anything in it that a
        run has made, it stays."""
        nothing = {"config.toml", ".lock", _GIVEN_PROMPTS, _TIMES}
        if not self._under_way():
            nothing.add(_UNDER_WAY)
        if {p.name for p in self.path.iterdir()} <= nothing:
            shutil.rmtree(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the run for one writer; a second process that wants to write is refused."""
        with (self.path / ".lock").open("w") as lock:
            if not _try_lock(lock):
                raise UserError(f"{self.path} is being written by another process; wait for it or stop it.")
            try:
                yield
            finally:
                if not self._under_way():
                    (self.path / _UNDER_WAY).unlink(missing_ok=True)

    # -- settings and prompts -----------------------------------------------------------------

    def settings(self) -> Settings:
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
        then, now = self.versions(), _versions()
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
        now = _reward_files(settings)
        changed = [name for name, sha in source.get("reward_files", {}).items() if now.get(name) != sha]
        if not changed:
            return
        if self.outcomes("base") is not None:
            raise UserError(
                f"{', '.join(changed)} has changed since the base model was scored with it: base and tuned "
                f"would be measured by different rewards. Put it back; or start the training over, base "
                f"model included, with: refine train --resume {self.path} --from-step 0"
            )
        self._save_config(settings, {**source, "reward_files": now}, self.versions())

    def versions(self) -> dict[str, str]:
        """Package versions at the start of the run."""
        return {k: str(v) for k, v in self._config().get("versions", {}).items()}

    def python_rewards(self) -> list[str]:
        """Names of reward functions that were given from Python, and so cannot be found from files."""
        return list(self._config().get("source", {}).get("python_rewards", []))

    def _config(self) -> dict[str, Any]:
        return tomllib.loads(self._text("config.toml"))

    def save_prompts(self, prompts: Sequence[Prompt]) -> None:
        self._replace("prompts.jsonl", "".join(_line(dataclasses.asdict(p)) for p in prompts))

    def prompts(self) -> list[Prompt]:
        return [
            Prompt(**{**record, "messages": tuple(record["messages"])})
            for record in self._lines("prompts.jsonl")
        ]

    # -- money --------------------------------------------------------------------------------

    def append_call(self, call: Call) -> None:
        """One call to an LLM. Nothing ever takes a line away: going back in training brings no money back."""
        self._append("llm_calls.jsonl", _line(dataclasses.asdict(call)))

    def calls(self) -> list[dict[str, Any]]:
        """Every call of the run, over all resumes."""
        return list(self._lines("llm_calls.jsonl"))

    def append_exchange(self, exchange: Exchange) -> None:
        """What was asked in a call, and what was replied. Kept for ever, as the calls are."""
        self._append(_REPLIES, _line(exchange_record(exchange)))

    @property
    def replies(self) -> Path:
        """The file of what was asked and replied; there is none before the first call, or where endpoints
        keep nothing."""
        return self.path / _REPLIES

    def exchanges(self) -> Iterator[dict[str, Any]]:
        """What was asked and replied, a record a call, in the order in which the calls ended."""
        return self._lines(_REPLIES)

    def call_sent(self, ticket: int, killed: Call) -> None:
        """A call is about to be sent. Where the process is killed before `call_done`, `repair` makes
        `killed` a line of the ledger: the call may have to be paid for."""
        self._append(_UNDER_WAY, _line({"ticket": ticket, "call": dataclasses.asdict(killed)}))

    def call_done(self, ticket: int) -> None:
        """What came of the call is in the ledger."""
        self._append(_UNDER_WAY, _line({"ticket": ticket, "done": True}))

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
        self._append("groups.jsonl", "".join(map(_line, records)))

    def groups(self) -> Iterator[dict[str, Any]]:
        """Lines of groups.jsonl as they are."""
        return self._lines("groups.jsonl")

    def recorded_steps(self, after: int = 0) -> dict[int, list[Group]]:
        """The groups of every step later than `after`, as records again."""
        prompts = {p.id: p for p in self.prompts()}
        steps: dict[int, list[Group]] = {}
        for record in self.groups():
            if record["step"] > after:
                steps.setdefault(record["step"], []).append(group_from(record, prompts))
        return steps

    def append_metrics(self, metrics: StepMetrics) -> None:
        self._append("metrics.jsonl", _line(dataclasses.asdict(metrics)))

    def metrics(self) -> list[dict[str, Any]]:
        return list(self._lines("metrics.jsonl"))

    def history(self) -> list[StepMetrics]:
        """metrics.jsonl as records."""
        return [StepMetrics(**m) for m in self.metrics()]

    def append_pool(self, records: Sequence[Mapping[str, Any]]) -> None:
        """What the choice of a step's prompts set aside and took back, in one write."""
        if records:
            self._append("pool.jsonl", "".join(map(_line, records)))

    def pool(self) -> list[dict[str, Any]]:
        """Which prompts were set aside, why, and which came back: a line each time."""
        return list(self._lines("pool.jsonl"))

    def append_validation(self, record: Mapping[str, Any]) -> None:
        self._append("validation.jsonl", _line(record))

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
            self._append(_TIMES, _line({"stage": stage, "step": step, "seconds": seconds}))

    def times(self) -> list[dict[str, Any]]:
        """Seconds spent outside of the steps: a line for each time that a stage was gone through."""
        return list(self._lines(_TIMES))

    def event(self, kind: str, name: str, text: str, step: int | None = None) -> None:
        """Something a person should read later: started, warning, guard, resumed, best ..."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append(
            "events.jsonl", _line({"time": now, "step": step, "kind": kind, "name": name, "text": text})
        )

    def events(self) -> list[dict[str, Any]]:
        return list(self._lines("events.jsonl"))

    def repair(self) -> None:
        """Removes what a killed run may leave: torn lines, a step's groups written in part, and
        checkpoints half written. Calls to LLMs that were under way get their lines."""
        there = Counter(record["step"] for record in self.groups())
        self._keep_lines("groups.jsonl", lambda r: there[r["step"]] == r["groups_in_step"])
        for file in ("metrics.jsonl", "validation.jsonl", "events.jsonl", "pool.jsonl"):
            self._keep_lines(file, lambda record: True)
        for file in ("llm_calls.jsonl", "quiz.jsonl", _TIMES):
            self._keep_lines(file, lambda record: True)
        self._drop_torn_line(_REPLIES)
        if killed := self._under_way():
            self._append("llm_calls.jsonl", "".join(map(_line, killed)))
        (self.path / _UNDER_WAY).unlink(missing_ok=True)
        for leftover in (*self._checkpoints.glob(".step-*"), *self._checkpoints.glob(".old-*")):
            shutil.rmtree(leftover)
        for leftover in self.path.glob(f".{self.model.name}.*"):
            shutil.rmtree(leftover)

    def rewind(self, step: int) -> None:
        """Forgets everything that training did after the checkpoint of `step` (0: all of it, and what the
        base model was scored with)."""
        if step and step not in self.checkpoints():
            there = ", ".join(map(str, (0, *self.checkpoints())))
            raise UserError(f"{self.path} has no checkpoint of step {step}; it has {there}.")
        for file in ("groups.jsonl", "metrics.jsonl", "validation.jsonl", "pool.jsonl"):
            self._keep_lines(file, lambda record: record["step"] <= step)
        if step == 0:
            shutil.rmtree(self.path / "evaluations", ignore_errors=True)
            (self.path / "validation.jsonl").unlink(missing_ok=True)
        for later in self.checkpoints():
            if later > step:
                shutil.rmtree(self.checkpoint(later))
        where = f"step {step}" if step else "the start of training"
        self.event("rewound", "rewound", f"Back to {where}; what came later was forgotten.", step)

    # -- checkpoints --------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:06d}"

    def checkpoints(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending."""
        if not self._checkpoints.is_dir():
            return []
        return sorted(int(p.name[5:]) for p in self._checkpoints.glob("step-*") if p.is_dir())

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """`write` fills a folder beside; it gets its name only when everything is on the disk. Where the
        step has a checkpoint already, its files are replaced one by one (only the position differs)."""
        _write_folder(self.checkpoint(step), write)

    def prune_checkpoints(self, *, keep_newest: int, keep: Iterable[int]) -> None:
        """Deletes all but the newest ones and `keep` (the best)."""
        steps = self.checkpoints()
        kept = {*steps[-max(1, keep_newest) :], *keep}
        for step in steps:
            if step not in kept:
                # Renamed first, so that a kill in the middle leaves no checkpoint with files missing.
                doomed = self._checkpoints / f".old-{step}"
                self.checkpoint(step).rename(doomed)
                shutil.rmtree(doomed)

    # -- evidence -----------------------------------------------------------------------------

    def save_outcomes(self, which: str, outcomes: Sequence[Outcome]) -> None:
        """What a model did with the held-out prompts (`which`: "base" or "tuned", or of an eval)."""
        self._replace(f"evaluations/{which}.jsonl", "".join(_line(outcome_record(o)) for o in outcomes))

    def outcomes(self, which: str, prompts: Sequence[Prompt] | None = None) -> list[Outcome] | None:
        """Outcomes saved before, or None where there are none."""
        if not (self.path / f"evaluations/{which}.jsonl").is_file():
            return None
        by_id = {p.id: p for p in (self.prompts() if prompts is None else prompts)}
        return [outcome_from(r, by_id) for r in self._lines(f"evaluations/{which}.jsonl")]

    def save_comparison(self, comparison: Comparison) -> Path:
        """The run's own comparison."""
        return self._replace("comparison.json", comparison_text(comparison))

    def save_evaluation(self, name: str, comparison: Comparison) -> Path:
        """A later comparison, beside the run's own."""
        return self._replace(f"evaluations/{name}.json", comparison_text(comparison))

    def free_evaluation(self, name: str) -> str:
        """`name`, or `name-2` ... where there is an evaluation of that name."""
        return _free(name, lambda free: (self.path / f"evaluations/{free}.json").exists())

    def comparison(self) -> Comparison | None:
        if not (self.path / "comparison.json").is_file():
            return None
        return comparison_from(json.loads(self._text("comparison.json")))

    @property
    def model(self) -> Path:
        """The tuned model's folder (it exists once training has ended)."""
        return self.path / "model"

    def write_model(self, write: Callable[[Path], None]) -> None:
        _write_folder(self.model, write)

    @property
    def report(self) -> Path:
        """The page (it is there once training has ended or a guard has stopped it)."""
        return self.path / "report.html"

    def save_report(self, html: str) -> Path:
        return self._replace(self.report.name, html)

    # -- bytes --------------------------------------------------------------------------------

    def _text(self, file: str) -> str:
        return (self.path / file).read_text(encoding="utf-8")

    def _lines(self, file: str) -> Iterator[dict[str, Any]]:
        """Whole lines only: what follows the last line end is still being written."""
        path = self.path / file
        if not path.is_file():
            return
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def _append(self, file: str, text: str) -> None:
        data = _bytes(text)
        descriptor = os.open(self.path / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    def _replace(self, file: str, text: str) -> Path:
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.new")
        with aside.open("wb") as f:
            f.write(_bytes(text))
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)
        return path

    def _drop_torn_line(self, file: str) -> None:
        """Cuts off what follows the last line end; for files that are too large to be written anew."""
        path = self.path / file
        if not path.is_file():
            return
        with path.open("r+b") as lines:
            end = lines.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - 65536)
                lines.seek(start)
                found = lines.read(end - start).rfind(b"\n")
                if found >= 0:
                    lines.truncate(start + found + 1)
                    return
                end = start
            lines.truncate(0)

    def _keep_lines(self, file: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        if (self.path / file).is_file():
            self._replace(file, "".join(_line(r) for r in self._lines(file) if keep(r)))


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
        self._run._append("quiz.jsonl", _line({"key": key, "made": made}))

    def _all(self) -> dict[str, dict[str, Any]]:
        if self._made is None:
            self._made = {record["key"]: record["made"] for record in self._run._lines("quiz.jsonl")}
        return self._made


def free_name(parent: Path, name: str) -> Path:
    """`parent/name`, or `parent/name-2` ... where that is taken."""

    def taken(free: str) -> bool:
        path = parent / free
        return path.exists() and (not path.is_dir() or any(path.iterdir()))

    return parent / _free(name, taken)


def _free(name: str, taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name-2`, `name-3` ... that is not taken."""
    free, n = name, 1
    while taken(free):
        n += 1
        free = f"{name}-{n}"
    return free


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _bytes(text: str) -> bytes:
    """UTF-8. A lone surrogate (foreign text may hold one) becomes its JSON escape instead of an error."""
    return text.encode("utf-8", "backslashreplace")


def _try_lock(lock: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows; there the folder is not guarded
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _write_folder(target: Path, write: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    write(aside)
    for file in aside.rglob("*"):
        if file.is_file():
            with file.open("rb") as f:
                os.fsync(f.fileno())
    if target.exists():
        for file in aside.iterdir():
            file.replace(target / file.name)
        aside.rmdir()
    else:
        aside.rename(target)


def _only_given_prompts(path: Path) -> bool:
    return path.is_dir() and [p.name for p in path.iterdir()] == [_GIVEN_PROMPTS]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _source(settings: Settings, python_rewards: Sequence[str]) -> dict[str, Any]:
    """What the settings themselves do not say: where they came from, and what the reward's files held."""
    return {
        "folder": str(settings.folder.resolve()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python_rewards": list(python_rewards),
        "reward_files": _reward_files(settings),
    }


def _reward_files(settings: Settings) -> dict[str, str]:
    """SHA-256 of each file that a reward function of the settings, or the rubric, comes from."""
    specs = [f if isinstance(f, str) else f.function for f in settings.reward.functions]
    if settings.reward.steps is not None:
        specs.append(settings.reward.steps.function)
    files = {spec.rpartition(":")[0] for spec in specs}
    if settings.reward.rubric.startswith("file:"):
        files.add(settings.reward.rubric.removeprefix("file:"))
    return {
        file: hashlib.sha256((settings.folder / file).read_bytes()).hexdigest()
        for file in sorted(files)
        if (settings.folder / file).is_file()
    }
