"""The Python front door: what the command line does, as functions.

import refine_rl as refine

def brevity(prompt, completion):
    return 1.0 if len(completion.split()) <= 20 else 0.0

run = refine.train(task="Answer in one short sentence.", prompts="tickets.jsonl", rewards=[brevity])
print(run.comparison)

# without any data: refine.train(task="...", writer="ENDPOINT/MODEL", judge="ENDPOINT/MODEL")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refine_rl.errors import UserError
from refine_rl.pipeline.functions import function_names, require_functions
from refine_rl.progress import Observer
from refine_rl.run import RunFolder, new_run
from refine_rl.run.start import begun_from
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings, settings_from_dict
from refine_rl.types import Comparison, Score

if TYPE_CHECKING:
    from refine_rl.llm.client import Connections

RewardFunction = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    """What a finished run of either kind has."""

    folder: Path

    @property
    def model(self) -> Path:
        """The tuned model, as transformers and peft load it."""
        return RunFolder(self.folder).model

    @property
    def report(self) -> Path:
        return RunFolder(self.folder).report


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(_Finished):
    """A finished run."""

    comparison: Comparison


def train(
    task: str | Path,
    *,
    model: str | Path | Mapping[str, Any] | None = None,
    prompts: str | Path | Sequence[str | Mapping[str, Any]] | Mapping[str, Any] | None = None,
    rewards: Sequence[RewardFunction] = (),
    rules: Sequence[Mapping[str, Any]] = (),
    writer: str | Mapping[str, Any] | None = None,
    judge: str | Sequence[str] | Mapping[str, Any] | None = None,
    run: str | Path | None = None,
    observer: Observer | None = None,
    **sections: Any,
) -> Run:
    """Trains a model for a task and compares it with what it was.

    Args:
        task: what is wanted, in plain words; or the path of a task.toml.
        model: a hub id, a folder or "tiny"; or the [model] section as a dict.
        prompts: a file of prompts, "recipe:NAME", "writer", a list of prompts (strings, or dicts as a line of
            a JSONL file has them); or the [prompts] section as a dict.
        rewards: functions `(prompt, completion) -> float`; more parameters are filled by name from the
            prompt's data. TRL's list form works as well.
        rules: rule tables, e.g. `{"rule": "words", "max": 20}`; they replace those of a task.toml.
        writer: "ENDPOINT/MODEL" of the LLM that writes prompts where none are given; or the [writer]
            section as a dict.
        judge: "ENDPOINT/MODEL" of the LLM that scores the answers, or several as a panel; they replace
            those of a task.toml. Or the [judge] section as a dict, which says how they judge: then
            `reward={"judges": [...]}` names them.
        run: the run's folder; without it, a new one below runs/.
        observer: hears the progress; without it, lines on the standard error stream.
        sections: further settings by section: `grpo={"steps": 50}, rollout={"group_size": 8}`; they go
            over those of a task.toml.

    Raises UserError for what the settings, files or model do not allow, GuardStop where a guard ended
    the training (the folder can be resumed).
    """
    names = function_names(rewards)
    given = {**sections, **_models(writer, judge, sections)}
    settings = begun_from(_settings(task, model, prompts, rules, given))
    listed = isinstance(prompts, Sequence) and not isinstance(prompts, str)
    lines = _prompt_lines(prompts) if listed else None  # type: ignore[arg-type]
    with new_run(None if run is None else Path(run), settings.name or "run") as folder:
        if lines is not None:
            file = folder.give_prompts(lines)
            source = settings.prompts.model_copy(update={"source": f"file:{file.resolve()}"})
            settings = settings.model_copy(update={"prompts": source})
        folder.begin(settings, python_rewards=names)
        return _go(folder, observer, rewards)


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTRun(_Finished):
    """A finished run of supervised fine-tuning. Losses are nats a token of the answers; `before` and `after`
    are those on the validation rows (None without any)."""

    before: float | None
    after: float | None
    training: float


def sft(
    data: str | Path | Sequence[Mapping[str, Any]],
    *,
    task: str | Path = "Imitate the answers.",
    model: str | Path | Mapping[str, Any] | None = None,
    run: str | Path | None = None,
    observer: Observer | None = None,
    rollout: Mapping[str, Any] | None = None,
    budget: Mapping[str, Any] | None = None,
    **settings: Any,
) -> SFTRun:
    """Trains a model on answers to imitate.

    Args:
        data: a file of rows, "file:PATH" or "hub:OWNER/NAME", or a list of rows (dicts with `prompt` and
            `answer`, or with `messages`).
        task: what is wanted, in plain words; or the path of a task.toml.
        model: a hub id, a folder or "tiny"; or the [model] section as a dict.
        run: the run's folder; without it, a new one below runs/.
        observer: hears the progress; without it, lines on the standard error stream.
        rollout, budget: these sections as dicts.
        settings: those of [sft]: `steps=500`, `epochs=3`, `learning_rate=2e-4`, `validation=50` ...

    Raises UserError for what the settings, files or model do not allow, GuardStop where a guard ended
    the training (`resume_sft` goes on).
    """
    rows = None if isinstance(data, str | Path) else _rows(data, "data")
    source = "file:rows.jsonl" if rows is not None else _source(str(data))
    sections = {"rollout": rollout, "budget": budget}
    given = {name: section for name, section in sections.items() if section is not None}
    whole = _settings(task, model, None, (), {**given, "sft": {**settings, "data": source}})
    with new_run(None if run is None else Path(run), whole.name or "sft") as folder:
        if rows is not None and whole.sft is not None:
            file = folder.give_prompts(rows)
            own = whole.sft.model_copy(update={"data": f"file:{file.resolve()}"})
            whole = whole.model_copy(update={"sft": own})
        folder.begin(whole, kind="sft")
        return _go_sft(folder, observer)


def resume_sft(run: str | Path, *, observer: Observer | None = None) -> SFTRun:
    """Goes on with a run of supervised fine-tuning exactly where it stopped; raises UserError where there is
    none."""
    folder = RunFolder.open(Path(run))
    if folder.config.kind() != "sft":
        raise UserError(f"{run} is no run of supervised fine-tuning: {folder.resume}")
    return _go_sft(folder, observer)


def _go_sft(folder: RunFolder, observer: Observer | None) -> SFTRun:
    if observer is None:
        from refine_rl.report.screen import Screen

        observer = Screen()
    from refine_rl.pipeline.sft import run as run_pipeline  # late: torch

    losses = run_pipeline(folder, observer=observer)
    return SFTRun(folder=folder.path, before=losses.before, after=losses.after, training=losses.training)


def _source(text: str) -> str:
    """A path as a source; a source as it is."""
    known = text.startswith(("file:", "hub:"))
    return text if known else f"file:{Path(text).expanduser().resolve()}"


def resume(
    run: str | Path, *, rewards: Sequence[RewardFunction] = (), observer: Observer | None = None
) -> Run:
    """Goes on with a run exactly where it stopped. Functions that were given to `train` are given again.

    Raises UserError where there is no such run, or where the functions are others.
    """
    folder = RunFolder.open(Path(run))
    if folder.config.kind() == "sft":
        raise UserError(f"{run} is a run of supervised fine-tuning: `resume_sft` goes on with it.")
    require_functions(folder, rewards)
    return _go(folder, observer, rewards)


def open_run(run: str | Path) -> Run:
    """A finished run from its folder; raises UserError where it is not finished."""
    comparison = RunFolder.open(Path(run)).comparison()
    if comparison is None:
        raise UserError(f"{run} is not finished: {RunFolder(Path(run)).resume}")
    return Run(folder=Path(run), comparison=comparison)


async def score_group(
    messages: Sequence[Mapping[str, str]],
    completions: Sequence[str],
    *,
    judge: str | Sequence[str],
    task: str = "",
    rubric: str | Path | None = None,
    base_url: str | None = None,
    repeats: int = 1,
    kind: Literal["ruler", "absolute", "pairwise"] = "ruler",
    connections: Connections | None = None,
) -> list[Score]:
    """An LLM's scores of several completions of one chat, in their order, each from 0 to 1.

    Args:
        messages: what was asked, each {"role", "content"}.
        completions: what was answered.
        judge: "ENDPOINT/MODEL", or several as a panel.
        task: what is wanted, in plain words; without it, what the messages ask for.
        rubric: what to judge by, as text, or the `Path` of a text file; without it, a general rubric.
        base_url: the address of the judge's endpoint; any name may then stand for it in `judge`.
        repeats: looks of each judge, each in another order; scores are averaged.
        kind: the whole group in one request, each answer alone, or two at a time.
        connections: who asks, in the place of real endpoints (`refine_rl.llm.scripted`).

    What could not be had has the status "missing", with the reason. Raises UserError for what cannot be
    asked, MachineError where the endpoint refuses or does not answer.
    """
    from refine_rl.pipeline.score import Judges, score_one  # late: not everybody judges

    judges = Judges(
        models=(judge,) if isinstance(judge, str) else tuple(judge),
        task=task,
        rubric=rubric,
        base_url=base_url,
        repeats=repeats,
        kind=kind,
    )
    return await score_one(messages, completions, judges, connections)


def _go(folder: RunFolder, observer: Observer | None, rewards: Sequence[RewardFunction]) -> Run:
    if observer is None:
        from refine_rl.report.screen import Screen

        observer = Screen()
    from refine_rl.pipeline.train import run as run_pipeline  # late: torch

    comparison = run_pipeline(folder, observer=observer, functions=rewards)
    return Run(folder=folder.path, comparison=comparison)


def _settings(
    task: str | Path,
    model: str | Path | Mapping[str, Any] | None,
    prompts: object,
    rules: Sequence[Mapping[str, Any]],
    sections: Mapping[str, object],
) -> Settings:
    given: dict[str, Any] = {name: _plain(section) for name, section in sections.items()}
    if model is not None:
        given["model"] = _plain(model) if isinstance(model, Mapping) else {"name": str(model)}
    if isinstance(prompts, Mapping):
        given["prompts"] = dict(prompts)
    elif isinstance(prompts, str | Path):
        text = str(prompts)
        is_source = text.startswith(("file:", "recipe:")) or text == "writer"
        given["prompts"] = {"source": text if is_source else f"file:{Path(text).expanduser().resolve()}"}
    if rules:
        given["reward"] = {**given.get("reward", {}), "rules": [dict(r) for r in rules]}
    if not (isinstance(task, Path) or (task.endswith(".toml") and "\n" not in task)):
        return settings_from_dict({"task": task, **given}, Path.cwd())
    base = load_settings(Path(task))
    merged: dict[str, Any] = base.model_dump(exclude_none=True)
    for name, section in given.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(section, dict):
            section = {**old, **section}
        merged[name] = section
    return settings_from_dict(merged, base.folder)


def _models(writer: object, judge: object, sections: Mapping[str, object]) -> dict[str, object]:
    """The sections that `writer` and `judge` stand for."""
    given: dict[str, object] = {}
    if writer is not None:
        given["writer"] = {"model": writer} if isinstance(writer, str) else writer
    if isinstance(judge, Mapping):
        given["judge"] = judge
    elif judge is not None:
        reward = sections.get("reward", {})
        if isinstance(reward, Mapping):  # else the check of the settings names it
            judges = [judge] if isinstance(judge, str) else judge
            given["reward"] = {**reward, "judges": list(judges) if isinstance(judges, Sequence) else judges}
    return given


def _plain(section: object) -> object:
    """A section as a dict; anything else is left to the check of the settings, which names the key."""
    return dict(section) if isinstance(section, Mapping) else section


def _prompt_lines(prompts: Sequence[str | Mapping[str, Any]]) -> str:
    """The prompts as the text of a JSONL file."""
    rows = [{"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]
    return _rows(rows, "prompts")


def _rows(rows: Sequence[object], name: str) -> str:
    """Rows that were given as `name`, as the text of a JSONL file."""
    lines = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            also = "a string, or " if name == "prompts" else ""
            raise UserError(f"{name}[{number}] is {row!r}: give {also}a dict with `prompt`.")
        try:
            lines.append(json.dumps(dict(row)) + "\n")
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{name}[{number}] cannot be written as JSON: {error}") from error
    return "".join(lines)
