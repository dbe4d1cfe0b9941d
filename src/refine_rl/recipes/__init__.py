"""The ready tasks that come with the package, and the start of a task of one's own.

A recipe is a folder here with a task.toml, a README.md, its prompts and its rules; it works from wherever
it is copied to.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.toml_write import toml_string

_HERE = Path(__file__).parent
_TEMPLATE = _HERE / "_template"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A ready task; `summary` is the first sentence of its task."""

    name: str
    summary: str
    folder: Path


def recipes() -> list[Recipe]:
    """Every bundled recipe, by name."""
    folders = sorted(path.parent for path in _HERE.glob("[!_]*/task.toml"))
    return [Recipe(name=folder.name, summary=_summary(folder), folder=folder) for folder in folders]


def recipe_folder(name: str) -> Path:
    """Where a recipe lies; raises UserError with the nearest name where there is none."""
    folders = {recipe.name: recipe.folder for recipe in recipes()}
    if name not in folders:
        near = get_close_matches(name, folders, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(folders)}"
        raise UserError(f"there is no recipe {name!r}; {hint}")
    return folders[name]


def copy_recipe(name: str, target: Path) -> Path:
    """Copy a recipe into the new folder `target`; returns its task.toml.

    Raises UserError where there is no such recipe, or where `target` holds something already.
    """
    return _copy(recipe_folder(name), target) / "task.toml"


def write_task(target: Path, sentence: str | None = None) -> Path:
    """Write a commented task with example prompts and a reward into the new folder `target`.

    `sentence` describes the behaviour in plain words; without it, the example's own stays.
    Returns the task.toml; raises UserError where `target` holds something already.
    """
    task = _copy(_TEMPLATE, target) / "task.toml"
    if sentence and sentence.strip():
        line = f"task = {toml_string(sentence.strip())}"
        text = task.read_text(encoding="utf-8")
        text = re.sub(r"^task = .*$", lambda _: line, text, count=1, flags=re.MULTILINE)
        task.write_text(text, encoding="utf-8")
    return task


def _copy(source: Path, target: Path) -> Path:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already and is not empty; choose another name")
    try:
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error}") from error
    return target


def _summary(folder: Path) -> str:
    """The first sentence of the recipe's task."""
    task = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))["task"]
    return re.split(r"(?<=[.!?])\s", " ".join(task.split()), maxsplit=1)[0]
