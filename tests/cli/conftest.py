"""A small task, and a finished run made by the real executable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from make import task_toml

MakeModel = Callable[..., Path]
Once = Callable[[str, Callable[[Path], None]], Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
TABLES = {
    "prompts": {"validation": 4},
    "reward": {"rules": [{"rule": "chars", "max": 12}, {"rule": "words", "min": 1, "max": 2}]},
    "grpo": {"steps": 6, "checkpoint_every": 2, "validate_every": 3},
}


def executable(*arguments: str) -> list[str]:
    """The real `refine` of this environment, as a command."""
    return [str(Path(sys.executable).with_name("refine")), *arguments]


@pytest.fixture(scope="session")
def task(make_model: MakeModel, once: Once) -> Path:
    """A task.toml of a run of a second, in a folder with its prompts."""

    def make(folder: Path) -> None:
        (folder / "shorter").mkdir()
        lines = [{"prompt": f"say something about the {a} and a {b}"} for a in WORDS for b in WORDS if a < b]
        (folder / "shorter/prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "shorter/task.toml").write_text(task_toml(make_model("llama"), **TABLES))

    return once("tasks", make) / "shorter/task.toml"


@pytest.fixture(scope="session")
def trained(task: Path, once: Once, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimpleNamespace]:
    """A finished run (not to be changed by anybody), and what the terminal showed."""

    def make(place: Path) -> None:
        # The test that comes first may have set another width.
        env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        done = subprocess.run(
            executable("train", str(task)), cwd=place, env=env, capture_output=True, text=True
        )
        said = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
        (place / "said.json").write_text(json.dumps(said))

    whole = once("trained", make)
    runs = shutil.copytree(whole / "runs", tmp_path_factory.mktemp("work") / "runs")
    return runs / "shorter", SimpleNamespace(**json.loads((whole / "said.json").read_text()))


@pytest.fixture(scope="session")
def patient_task(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The task in a folder of its own, of so many steps, the function `patient` of a code its reward."""

    def make(code: str, steps: int) -> Path:
        folder = Path(shutil.copytree(task.parent, tmp_path_factory.mktemp("patient") / "task"))
        text = task.read_text().replace("[reward]", '[reward]\nfunctions = ["rewards.py:patient"]')
        (folder / "task.toml").write_text(text.replace("steps = 6", f"steps = {steps}"))
        (folder / "rewards.py").write_text(code)
        return folder / "task.toml"

    return make


@pytest.fixture(scope="module")
def whole(patient: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the module's patient task that nobody watched or stopped."""
    from refine_rl.pipeline.train import run
    from refine_rl.run import RunFolder
    from refine_rl.settings.file import load_settings

    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole", load_settings(patient))
    run(folder)
    return folder.path
