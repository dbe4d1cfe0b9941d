"""The ready tasks that come with the package, and the start of a task of one's own.

A recipe is a folder here with a task.toml, a README.md, its prompts and its rules; it works from wherever
it is copied to.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from refine_rl.errors import SettingsError, UserError, disk_error, quoted
from refine_rl.recipes.examples import OWN, example_task, same_task
from refine_rl.recipes.examples import TEMPLATE as _TEMPLATE
from refine_rl.run.start import begun_from
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import load_settings
from refine_rl.settings.toml_write import toml_key, toml_string

_HERE = Path(__file__).parent
_FROM_SENTENCE = _HERE / "_from_sentence"


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


def load_task(path: Path | None, *, recipe: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a task file (or of the folder that has one), or those of a recipe. Raises what
    `load_settings`, `recipe_folder` and `begun_from` raise, and SettingsError unless one of
    the two is named."""
    if (path is None) == (recipe is None):
        raise SettingsError("name either a task file or a recipe: `refine recipes` lists the recipes")
    if path is not None and not path.exists() and (meant := _meant(path)):
        raise UserError(f"{path}: no such file; {meant}")
    found = load_settings(recipe_folder(str(recipe)) if path is None else path, overrides=overrides)
    return begun_from(found)


def _meant(path: Path) -> str:
    """What a task that is not there may have been: one of nearly that name beside it, or a recipe; "" where
    nothing is like it."""
    folder = path.parent
    beside = [p.name for p in folder.iterdir() if _is_task(p)] if folder.is_dir() else []
    if near := get_close_matches(path.name, beside, n=1):
        return f"did you mean {quoted(folder / near[0])}?"
    names = [recipe.name for recipe in recipes()] if path.name == str(path) else []
    if near := get_close_matches(path.name, names, n=1):
        return f"did you mean the recipe? --recipe {near[0]}"
    return ""


def _is_task(path: Path) -> bool:
    return path.suffix == ".toml" if path.is_file() else (path / "task.toml").is_file()


def copy_recipe(name: str, target: Path) -> Path:
    """Copy a recipe into the new folder `target`; returns its task.toml.

    Raises UserError where there is no such recipe, or where `target` holds something already.
    """
    return _copy(recipe_folder(name), target) / "task.toml"


def write_task(target: Path, sentence: str | None = None, model: str | None = None) -> Path:
    """Write a commented task into the new folder `target`.

    Without a `sentence`, or with the example's own, prompts and reward are an example that can be trained;
    with another one they are to be filled in, and nothing trains before that. Numbers fit the `model`.
    Returns the task.toml; raises UserError where `target` holds something already.
    """
    wanted = (sentence or "").strip()
    is_example = not wanted or same_task(wanted, example_task())
    task = _copy(_TEMPLATE if is_example else OWN, target) / "task.toml"
    values = {"task": toml_string(wanted)} if wanted else {}
    return _change(task, {**values, **_fitting(model or "tiny", brief=is_example)})


def write_judged_task(
    target: Path, sentence: str, *, writer: str, judge: str, model: str | None = None
) -> Path:
    """Write a commented task whose prompts an LLM writes and whose answers an LLM judges.

    `writer` and `judge` are "ENDPOINT/MODEL"; an endpoint that is not known by name gets a table to fill in.
    Returns the task.toml; raises UserError where `target` holds something already, SettingsError where a
    name lacks its model.
    """
    from refine_rl.llm.endpoints import PRESETS, parse_model

    names = dict.fromkeys(parse_model(m)[0] for m in (writer, judge))
    changes = {"task": toml_string(sentence.strip()), "judges": f"[{toml_string(judge)}]"}
    changes |= _fitting(model or ModelSettings().name, brief=False)
    task = _change(_copy(_FROM_SENTENCE, target) / "task.toml", changes)
    text = task.read_text(encoding="utf-8").replace('"ENDPOINT/WRITER"', toml_string(writer))
    tables = [
        f"\n[endpoints.{toml_key(name)}]\n"
        "# Where it answers; and the environment variable that holds its key, if it needs one.\n"
        'base_url = "http://127.0.0.1:8000/v1"\nkey_env = ""\n'
        for name in names
        if name not in PRESETS
    ]
    task.write_text(text + "".join(tables), encoding="utf-8")
    return task


def _fitting(model: str, *, brief: bool) -> dict[str, str]:
    """The values of a task file that depend on the model: the bundled one is small and quick, says little,
    and takes large steps."""
    if model == "tiny":
        values = {"max_tokens": "48" if brief else "64", "steps": "40", "prompts_per_step": "8"}
    else:
        values = {"max_tokens": "96" if brief else "256", "steps": "60", "prompts_per_step": "4"}
    own = Settings(task="?", model=ModelSettings(name=model)).learning_rate
    digits, _, power = f"{own:.0e}".partition("e")
    return {"name": toml_string(model), **values, "# learning_rate": f"{digits}e{int(power)}"}


def _change(task: Path, values: Mapping[str, str]) -> Path:
    """Put TOML values in the place of those that the file has; each key must be there once."""
    text = task.read_text(encoding="utf-8")
    for key, value in values.items():
        line = f"{key} = {value}".replace("\\", "\\\\")
        text, found = re.subn(rf"^{key} = .*$", line, text, flags=re.MULTILINE)
        assert found == 1, (task, key, found)
    task.write_text(text, encoding="utf-8")
    return task


def _copy(source: Path, target: Path) -> Path:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already and is not empty; choose another name")
    fresh = not target.exists()
    try:
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    except OSError as error:
        if fresh:
            shutil.rmtree(target, ignore_errors=True)
        raise disk_error(error, target) or UserError(f"{target}: cannot be written: {error}") from error
    return target


def _summary(folder: Path) -> str:
    """The first sentence of the recipe's task."""
    task = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))["task"]
    return re.split(r"(?<=[.!?])\s", " ".join(task.split()), maxsplit=1)[0]
