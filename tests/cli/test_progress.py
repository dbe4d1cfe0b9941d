"""What a person sees while the real command is at work, on a real terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import executable

import terminal

Works = Callable[..., tuple[int, terminal.Screen]]
PROGRESS = re.compile(r"step \d+/\d+  [━─]+")


@pytest.fixture
def works(tmp_path: Path) -> Works:
    """works(60, "train", task) -> the exit code, and what a terminal of 60 columns shows; interrupted once
    `stop` is on it."""

    def run(columns: int, *arguments: str | Path, stop: str = "") -> tuple[int, terminal.Screen]:
        usual = {"TERM": "xterm-256color", "COLUMNS": str(columns)}
        with terminal.terminal() as (stream, seen):
            process = subprocess.Popen(
                executable(*map(str, arguments)),
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=os.environ | usual,
            )
            if stop:
                terminal.until(lambda: stop in "".join(seen) or process.poll() is not None)
                process.send_signal(signal.SIGINT)
            code = process.wait(250)
        there = terminal.Screen(columns=columns)
        there.feed("".join(seen))
        return code, there

    return run


def test_a_training(works: Works, task: Path, tmp_path: Path) -> None:
    code, seen = works(60, "train", task, "--run", "run", "--set", "grpo.steps=8")
    assert code == 0
    assert seen.unknown == []
    assert max(map(len, seen.drawn)) < 60
    lines = [line[10:] for line in seen.drawn]
    assert lines[0].startswith("Getting ready  ")
    assert any(line.startswith("Loading ") for line in lines)
    assert any("step 4/8  ━" in line for line in lines)
    assert any(line.endswith(" left") for line in lines)
    assert not PROGRESS.search(seen.text)  # nothing of it stays
    at = seen.rows.index("Run: run")  # once there is something in it, before the first step
    assert seen.rows[at + 1] == "Report: run/report.html (renewed while it runs)"
    assert not any("no spread" in row for row in seen.rows[:at])
    steps = [row for row in seen.rows if "reward" in row and "no spread" in row]
    assert len(steps) == 8
    assert any(row.startswith(("better", "not better", "worse")) for row in seen.rows)
    assert (tmp_path / "run/report.html").is_file()


def test_ctrl_c_leaves_the_terminal_as_it_was(works: Works, task: Path) -> None:
    code, seen = works(60, "train", task, "--run", "run", "--set", "grpo.steps=5000", stop=" 3/5000")
    assert code == 130
    assert seen.unknown == []
    assert "Stopping at the next safe place (Ctrl-C again: at once) ..." in seen.rows
    assert not PROGRESS.search(seen.text)
    assert any(row.startswith("stopped  Interrupted.") for row in seen.rows)
    assert seen.rows[-1] == ""


def test_a_mistake_leaves_no_half_line(works: Works, task: Path) -> None:
    code, seen = works(60, "train", task, "--run", "run", "--set", "model.name=./nowhere")
    assert code == 2
    assert any(row.startswith("error  ") for row in seen.rows)
    assert not any("─" in row for row in seen.rows)
    assert seen.rows[-1] == ""
