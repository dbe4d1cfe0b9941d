"""What `model.start` names: the run whose tuned model is where another one begins."""

from __future__ import annotations

from pathlib import Path

from refine_rl.errors import SettingsError, quoted
from refine_rl.run.config import CONFIG
from refine_rl.run.folder import RunFolder
from refine_rl.run.near import run_near
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.revision import name_and_revision


def begun_from(settings: Settings) -> Settings:
    """The settings with the whole path of the run that they start from, and the name of its model; those
    without `model.start` as they are.

    Raises SettingsError where that is no run, has no tuned model yet, or is of another model than is named.
    """
    if not settings.model.start:
        return settings
    where = f'`model.start = "{settings.model.start}"`'
    folder = _folder(settings.model.start, settings.folder, where)
    run = RunFolder.open(folder)
    if not run.model.is_dir():
        raise SettingsError(f"{where}: that run has no tuned model yet; `{run.resume}` goes on with it")
    name = run.settings().model.name  # at a commit, where it came from the hub
    asked = run.config.asked_of_hub().get("model.name", name)
    if settings.model.name not in (name, name_and_revision(name)[0], asked, ModelSettings().name):
        raise SettingsError(
            f'{where}: that run trained {name}, and `model.name` is "{settings.model.name}"; leave one out'
        )
    model = settings.model.model_copy(update={"start": str(folder.resolve()), "name": name})
    return settings.model_copy(update={"model": model})


def _folder(start: str, task: Path, where: str) -> Path:
    """Where the run lies, seen from here or from the task's folder."""
    path = Path(start).expanduser()
    for folder in (path, task / path):
        if (folder / CONFIG).is_file():
            return folder
    if path.name == "model" and (path.parent / CONFIG).is_file():
        raise SettingsError(f'{where} names the model in a run: `model.start = "{path.parent}"` is the run')
    near = run_near(path)
    hint = f"did you mean {quoted(near)}?" if near else "`refine sft` makes one"
    raise SettingsError(f"{where}: there is no run; {hint}")
