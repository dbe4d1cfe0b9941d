"""A small task, a finished run made by the real executable, and the command line called in process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from refine_rl import cli
from refine_rl.cli import main


@pytest.fixture(autouse=True)
def _the_tests_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is called in process may not end the process; the real executable does."""
    monkeypatch.setattr(cli, "_leave", sys.exit)


MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
TASK = """task = "Be short."

[model]
name = "{model}"
rank = 4
device = "cpu"
dtype = "float32"

[prompts]
source = "file:prompts.jsonl"
validation = 4
held_out = 6

[reward]
rules = [{{rule = "chars", max = 12}}, {{rule = "words", min = 1, max = 2}}]

[rollout]
group_size = 4
max_tokens = 10

[grpo]
steps = 6
prompts_per_step = 3
learning_rate = 0.02
checkpoint_every = 2
validate_every = 3
all_cut_patience = 99

[evaluate]
samples = 2
bootstrap = 200
"""


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def executable(*arguments: str) -> list[str]:
    """The real `refine` of this environment, as a command."""
    return [str(Path(sys.executable).with_name("refine")), *arguments]


def environment() -> dict[str, str]:
    """That of a child whose bits are those of this process: equal numbers of threads."""
    import torch

    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.fixture(scope="session")
def task(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task.toml of a run of a second, in a folder with its prompts."""
    folder = tmp_path_factory.mktemp("tasks") / "shorter"
    folder.mkdir()
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in WORDS for b in WORDS if a < b]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "task.toml").write_text(TASK.format(model=make_model("llama")))
    return folder / "task.toml"


@pytest.fixture(scope="session")
def trained(task: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run (not to be changed by anybody), and what the terminal showed."""
    place = tmp_path_factory.mktemp("work")
    done = subprocess.run(
        executable("train", str(task)), cwd=place, env=environment(), capture_output=True, text=True
    )
    return place / "runs" / "shorter", Result(done.returncode, done.stdout, done.stderr)


Refine = Callable[..., Result]


@pytest.fixture
def refine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refine]:
    """refine("train", task, stdin="...") in process, in an empty folder."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["refine", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert end.value.code is None or isinstance(end.value.code, int)
        return Result(end.value.code or 0, out, err)

    yield call
    signal.signal(signal.SIGINT, before)
