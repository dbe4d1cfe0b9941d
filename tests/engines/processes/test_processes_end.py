"""Runs in several processes from the command line, and how they end: killed, interrupted, launched."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from make import task_toml
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.train import run as finish
from refine_rl.run import RunFolder

PATIENCE = 250.0  # of a busy machine
RULES = [{"rule": "chars", "max": 12}]


@pytest.fixture
def task(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    words = ["cat", "dog", "tree", "house", "river", "stone"]
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in words for b in words]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = task_toml(
        make_model("llama"), reward={"rules": RULES}, grpo={"steps": 300, "checkpoint_every": 50}
    )
    (tmp_path / "task.toml").write_text(text)
    return tmp_path / "task.toml"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """started(*command) -> a process in an empty folder; whatever it has started is gone at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        running.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def refine(*words: str) -> list[str]:
    return [sys.executable, "-m", "refine_rl", *words]


def wait_for(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def steps_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child) for child in found if b"processes.serve" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def at_work(
    task: Path, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> tuple[Path, subprocess.Popen[str], int]:
    """A run of two processes that has trained a step; its first process, and the other's id."""
    run = tmp_path / "run"
    first = started(*refine("train", str(task), "--run", str(run), "--set", "engine.processes=2"))
    wait_for(lambda: steps_of(run) or first.poll() is not None, "a step")
    (other,) = children(first.pid)
    return run, first, other


def goes_on(run: Path) -> None:
    """To a step more than it has, in one process."""
    last = steps_of(run) + 1
    finish(reopen(run, ["engine.processes=1", f"grpo.steps={last}"]))
    assert [m["step"] for m in RunFolder.open(run).metrics()] == list(range(1, last + 1))


AtWork = tuple[Path, "subprocess.Popen[str]", int]


def test_a_process_is_killed(at_work: AtWork) -> None:
    """The run ends within seconds, and says who it was and how to go on; that goes on."""
    run, first, other = at_work
    os.kill(other, signal.SIGKILL)
    out, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 4, out
    assert f"Process 1 of 2 (process id {other}) was killed (signal 9: SIGKILL)." in out
    command = shlex.split(out.rpartition("Go on with: ")[2])
    assert command[-3:] == ["train", "--resume", str(run)]
    goes_on(run)


def test_the_first_is_interrupted(at_work: AtWork) -> None:
    run, first, other = at_work
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    out, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, out
    assert "The state was saved." in out
    assert not alive(other)
    assert RunFolder.open(run).checkpoints()[-1] == steps_of(run) < 300
    goes_on(run)


def test_the_first_is_killed(at_work: AtWork) -> None:
    """Nobody is left behind."""
    _, first, other = at_work
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: not alive(other), "the other to notice")


def test_under_torchrun(task: Path, started: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """The processes that it starts are used; the first one alone speaks and writes."""
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "--", "refine_rl", "train", str(task), "--run", str(run), "--set", "grpo.steps=2"]
    whole = started(*launcher, *words)
    out, _ = whole.communicate(timeout=PATIENCE)
    assert whole.returncode == 0, out
    assert out.count("report: ") == 1
    assert "2 processes on 1 machine answer and learn together" in out
    assert steps_of(run) == 2
