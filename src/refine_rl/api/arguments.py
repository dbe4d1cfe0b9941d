"""The arguments of a call, checked and made into settings. A wrong one is refused as a setting is: by its
name, with the way out, all at once, before anything is loaded or written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from refine_rl.api import checks
from refine_rl.api.checks import plain, shown
from refine_rl.errors import UserError
from refine_rl.foreign.given import PYTHON
from refine_rl.pipeline.given import NOTHING, Given, name_of
from refine_rl.run.start import begun_from
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings, settings_from_dict

Function = Callable[..., Any]
"""A reward function or a tool."""
Section = Mapping[str, Any]
Row = str | Mapping[str, Any]
Model = str | Path | Section | None
Prompts = str | Path | Section | Iterable[Row] | None
Judge = str | Sequence[str] | Section | None

_SOURCES = ("file:", "recipe:", "hub:", "reasoning-gym:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The arguments that say what a run is to be."""

    task: str | Path
    model: Model = None
    prompts: Prompts = None
    rules: Sequence[Section] = ()
    writer: str | Section | None = None
    judge: Judge = None
    given: Given = NOTHING
    rivals: Sequence[str] | None = None
    sections: Section = field(default_factory=dict)

    def check(self) -> None:
        """Raises UserError for arguments that are not of the kinds that are taken."""
        checks.every(
            *(partial(checks.section, name, section) for name, section in self.sections.items()),
            lambda: checks.task(self.task),
            lambda: checks.model(self.model),
            lambda: checks.prompts(self.prompts),
            lambda: checks.rules(self.rules),
            lambda: checks.writer(self.writer),
            lambda: checks.judge(self.judge),
            lambda: checks.code(self.given),
            lambda: checks.texts("rivals", self.rivals, 'a list, as in rivals=["best_of_n"]'),
        )

    @property
    def listed(self) -> bool:
        """Whether the prompts are a list."""
        return not (self.prompts is None or isinstance(self.prompts, str | Path | Mapping))

    def prompt_lines(self) -> str | None:
        """The prompts as the text of a JSONL file, where they are a list."""
        if self.prompts is None or isinstance(self.prompts, str | Path | Mapping):
            return None
        rows = [{"prompt": row} if isinstance(row, str) else row for row in self.prompts]
        lines = rows_of(rows, "prompts")
        if not lines:
            checks.prompts([])  # an iterator that had none
        return lines

    def settings(self) -> Settings:
        """The settings that these arguments describe, prompts in a list apart. Raises SettingsError for what
        they do not allow."""
        given = {name: plain(section) for name, section in self.sections.items()}
        if self.model is not None:
            is_table = isinstance(self.model, Mapping)
            given["model"] = plain(self.model) if is_table else {"name": str(self.model)}
        if isinstance(self.prompts, Mapping):
            given["prompts"] = plain(self.prompts)
        elif isinstance(self.prompts, str | Path):
            given["prompts"] = {"source": source_of(str(self.prompts))}
        if self.writer is not None:
            given["writer"] = {"model": self.writer} if isinstance(self.writer, str) else plain(self.writer)
        self._put_judges(given)
        if self.rules:
            _put(given, "reward", rules=[plain(rule) for rule in self.rules])
        if self.given.environment is not None:
            _put(given, "rollout", environment=f"{PYTHON}:{name_of(self.given.environment)}")
        if self.given.tools:
            _put(given, "rollout", tools=[f"{PYTHON}:{name_of(tool)}" for tool in self.given.tools])
        if self.rivals is not None:
            _put(given, "evaluate", rivals=list(self.rivals))
        return begun_from(self._over_a_file(given))

    def _put_judges(self, given: dict[str, Any]) -> None:
        if isinstance(self.judge, Mapping):
            given["judge"] = plain(self.judge)
        elif self.judge is not None:
            _put(given, "reward", judges=[self.judge] if isinstance(self.judge, str) else list(self.judge))

    def _over_a_file(self, given: dict[str, Any]) -> Settings:
        file = task_file(self.task)
        if file is None:
            return settings_from_dict({"task": self.task, **given}, Path.cwd())
        base = load_settings(file)
        merged: dict[str, Any] = base.model_dump(exclude_none=True)
        for name, section in given.items():
            old = merged.get(name)
            if isinstance(old, dict) and isinstance(section, dict):
                section = {**old, **section}
            merged[name] = section
        return settings_from_dict(merged, base.folder)


def _put(given: dict[str, Any], section: str, **values: Any) -> None:
    """Values into a section; one that is no table is left to the check of the settings, which names it."""
    old = given.get(section, {})
    if isinstance(old, dict):
        given[section] = {**old, **values}


def task_file(task: str | Path) -> Path | None:
    """The task.toml that `task` names, or the folder that has one; None where it is the task in words."""
    if isinstance(task, Path):
        return task
    if "\n" in task or len(task) > 1000:
        return None
    is_folder = task.strip() == task != "" and (Path(task) / "task.toml").is_file()
    return Path(task) if task.endswith(".toml") or is_folder else None


def source_of(text: str, known: tuple[str, ...] = _SOURCES) -> str:
    """A path as a source; a source as it is."""
    if text.startswith(known) or text == "writer":
        return text
    return f"file:{Path(text).expanduser().resolve()}"


def rows_of(rows: Iterable[object], name: str) -> str:
    """Rows that were given as `name`, as the text of a JSONL file."""
    lines = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            also = "a string, or " if name == "prompts" else ""
            raise UserError(f"{name}[{number}] is {shown(row)}: give {also}a dict with `prompt`.")
        try:
            lines.append(json.dumps(plain(row)) + "\n")
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{name}[{number}] cannot be written as JSON: {error}") from error
    return "".join(lines)
