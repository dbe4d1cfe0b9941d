"""The Python front door: what the command line does, as functions.

import refine_rl as refine

def brevity(prompt, completion):
    return 1.0 if len(completion.split()) <= 20 else 0.0

run = refine.train(task="Answer in one short sentence.", prompts="tickets.jsonl", rewards=[brevity])
print(run.comparison)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.config import Settings
from refine_rl.config_file import load_settings, settings_from_dict
from refine_rl.errors import UserError
from refine_rl.progress import Observer
from refine_rl.runs import RunFolder, free_name
from refine_rl.types import Comparison

RewardFunction = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    comparison: Comparison

    @property
    def model(self) -> Path:
        """The tuned model, as transformers and peft load it."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def train(
    task: str | Path,
    *,
    model: str | Mapping[str, Any] | None = None,
    prompts: str | Path | Sequence[str | Mapping[str, Any]] | Mapping[str, Any] | None = None,
    rewards: Sequence[RewardFunction] = (),
    rules: Sequence[Mapping[str, Any]] = (),
    run: str | Path | None = None,
    observer: Observer | None = None,
    **sections: Mapping[str, Any],
) -> Run:
    """Trains a model for a task and compares it with what it was.

    Args:
        task: what is wanted, in plain words; or the path of a task.toml.
        model: a hub id, a folder or "tiny"; or the [model] section as a dict.
        prompts: a file of prompts, "recipe:NAME", a list of prompts (strings, or dicts as a line of a
            JSONL file has them); or the [prompts] section as a dict.
        rewards: functions `(prompt, completion) -> float`; more parameters are filled by name from the
            prompt's data. TRL's list form works as well.
        rules: rule tables, e.g. `{"rule": "words", "max": 20}`.
        run: the run's folder; without it, a new one below runs/.
        observer: hears the progress; without it, lines on the standard error stream.
        sections: further settings by section: `grpo={"steps": 50}, rollout={"group_size": 8}`.

    Raises UserError for what the settings, files or model do not allow, GuardStop where a guard ended
    the training (the folder can be resumed).
    """
    settings = _settings(task, model, prompts, rules, sections)
    path = Path(run) if run is not None else free_name(Path("runs"), settings.name or "run")
    if isinstance(prompts, Sequence) and not isinstance(prompts, str):
        # Refuse a used folder before anything is written into it.
        RunFolder.require_new(path)
        settings = _with_prompt_list(settings, prompts, path)
    folder = RunFolder.create(path, settings, python_rewards=[_name(f) for f in rewards])
    return _go(folder, observer, rewards)


def resume(
    run: str | Path, *, rewards: Sequence[RewardFunction] = (), observer: Observer | None = None
) -> Run:
    """Goes on with a run exactly where it stopped. Functions that were given to `train` are given again."""
    folder = RunFolder.open(Path(run))
    wanted, given = folder.python_rewards(), [_name(f) for f in rewards]
    if wanted != given:
        raise UserError(
            f"{run} was started with the Python reward functions {', '.join(wanted) or '(none)'}, but got "
            f"{', '.join(given) or 'none'}: call refine_rl.resume({str(run)!r}, rewards=[...]) with the same."
        )
    return _go(folder, observer, rewards)


def open_run(run: str | Path) -> Run:
    """A finished run from its folder."""
    comparison = RunFolder.open(Path(run)).comparison()
    if comparison is None:
        raise UserError(f"{run} is not finished: refine train --resume {run}")
    return Run(folder=Path(run), comparison=comparison)


def _go(folder: RunFolder, observer: Observer | None, rewards: Sequence[RewardFunction]) -> Run:
    from refine_rl.pipeline import run as run_pipeline  # late: torch

    if observer is None:
        from refine_rl.cli.screen import Screen

        observer = Screen()
    try:
        comparison = run_pipeline(folder, observer=observer, functions=rewards)
    except UserError:
        folder.abandon()
        raise
    return Run(folder=folder.path, comparison=comparison)


def _settings(
    task: str | Path,
    model: str | Mapping[str, Any] | None,
    prompts: object,
    rules: Sequence[Mapping[str, Any]],
    sections: Mapping[str, Mapping[str, Any]],
) -> Settings:
    is_file = isinstance(task, Path) or (task.endswith(".toml") and "\n" not in task)
    given: dict[str, Any] = {name: dict(values) for name, values in sections.items()}
    if model is not None:
        given["model"] = {"name": model} if isinstance(model, str) else dict(model)
    if isinstance(prompts, Mapping):
        given["prompts"] = dict(prompts)
    elif isinstance(prompts, str | Path):
        text = str(prompts)
        given["prompts"] = {"source": text if text.startswith(("file:", "recipe:")) else f"file:{text}"}
    if rules:
        given.setdefault("reward", {})["rules"] = [dict(r) for r in rules]
    if not is_file:
        return settings_from_dict({"task": task, **given}, Path.cwd())
    base = load_settings(Path(task))
    merged: dict[str, Any] = base.model_dump(exclude_none=True)
    for name, values in given.items():
        merged[name] = {**merged.get(name, {}), **values}
    return settings_from_dict(merged, base.folder)


def _with_prompt_list(settings: Settings, prompts: Sequence[str | Mapping[str, Any]], run: Path) -> Settings:
    rows = [{"prompt": p} if isinstance(p, str) else dict(p) for p in prompts]
    run.mkdir(parents=True, exist_ok=True)
    file = run / "given_prompts.jsonl"
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    source = settings.prompts.model_copy(update={"source": f"file:{file.resolve()}"})
    return settings.model_copy(update={"prompts": source})


def _name(function: RewardFunction) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
