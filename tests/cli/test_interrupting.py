"""Ctrl-C: once saves and ends with 130, twice ends at once; after either, --resume changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import begin
from refine_rl.cli.interrupt import StopNow, interruptible
from refine_rl.errors import Interrupted

Refine = Callable[..., Any]
STEPS = 25
# While the file "slow" lies beside it, this reward does not come back: from about step 14 on, so that whoever
# interrupts the run is in time, or already now where the file says so.
REWARD = """
import time
from pathlib import Path

slow = Path(__file__).with_name("slow")
calls = 0  # 18 for the base model, 12 a step, and those of the validation

def patient(completion):
    global calls
    calls += 1
    while slow.exists() and (calls > 200 or "now" in slow.read_text()):
        slow.with_name("hangs").touch()
        time.sleep(0.02)
    return 1.0 if len(completion) < 8 else 0.0
"""


@pytest.fixture(scope="module")
def patient(patient_task: Callable[[str, int], Path]) -> Path:
    return patient_task(REWARD, STEPS)


def same(a: Path, b: Path) -> None:
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json"):
        assert (a / file).read_text() == (b / file).read_text(), file
    weights = f"checkpoints/step-{STEPS:06d}/weights.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()
    assert [json.loads(line)["step"] for line in (b / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, STEPS + 1)
    )


class Child:
    """`refine train` at work in a process of its own."""

    def __init__(self, task: Path, run: Path, log: Path) -> None:
        self.run, self.log = run, log
        with log.open("w") as err:
            self.process = begin("train", task, "--run", run, stderr=err)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)

    def steps(self) -> int:
        file = self.run / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.fixture
def slow(patient: Path) -> Iterator[Path]:
    slow = patient.with_name("slow")
    slow.write_text("later")
    slow.with_name("hangs").unlink(missing_ok=True)
    yield slow
    slow.unlink(missing_ok=True)


@pytest.fixture
def child(patient: Path, slow: Path, tmp_path: Path) -> Iterator[Child]:
    """At work until it is interrupted."""
    started = Child(patient, tmp_path / "run", tmp_path / "log")
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def test_once(whole: Path, child: Child, slow: Path, refine: Refine) -> None:
    child.wait_for(lambda: child.steps() >= 3)
    child.process.send_signal(signal.SIGINT)
    assert child.process.wait(60) == 130
    log = child.log.read_text()
    assert "Stopping at the next safe place (Ctrl-C again: at once)" in log
    assert "The state was saved. Go on with: " in log
    assert f"refine train --resume {child.run}" in log
    assert "Traceback" not in log
    assert 3 <= child.steps() < STEPS
    slow.unlink()
    assert refine("train", "--resume", child.run).code == 0
    same(whole, child.run)


def test_once_while_a_reward_hangs(whole: Path, child: Child, slow: Path, refine: Refine) -> None:
    child.wait_for(lambda: child.steps() >= 2)
    slow.write_text("now")
    child.wait_for(slow.with_name("hangs").exists)
    child.process.send_signal(signal.SIGINT)
    assert child.process.wait(60) == 130  # the reward has not come back
    slow.unlink()
    log = child.log.read_text()
    assert "The state was saved. Go on with: " in log
    assert f"refine train --resume {child.run}" in log
    assert "Traceback" not in log
    assert refine("train", "--resume", child.run).code == 0
    same(whole, child.run)


def test_the_second_is_no_exception_that_a_library_could_swallow(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as pause:
        pause()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            pause()
        with pytest.raises(StopNow):
            os.kill(os.getpid(), signal.SIGINT)
    assert not issubclass(StopNow, Exception)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capfd.readouterr().err


def test_stopped_in_the_middle_of_an_update_saves_no_half_moved_weights(
    whole: Path, patient: Path, tmp_path: Path, refine: Refine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from refine_rl.pipeline.train import run
    from refine_rl.run import RunFolder
    from refine_rl.settings.file import load_settings

    step, left = torch.optim.AdamW.step, 5

    def torn(self: torch.optim.AdamW, closure: Any = None) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)
            raise StopNow("Stopped at once.")
        return step(self, closure)

    folder = RunFolder.create(tmp_path / "run", load_settings(patient))
    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(StopNow):
        run(folder)
    assert refine("train", "--resume", folder.path).code == 0
    same(whole, folder.path)


IMPATIENT = """
import atexit, os, signal
import refine_rl.cli as cli
from refine_rl.errors import Interrupted
from refine_rl.report import screen

def app(**_):
    raise Interrupted("Interrupted. Go on with: that.")

def press():
    os.kill(os.getpid(), signal.SIGINT)

say = screen.print_error
screen.print_error = lambda error: (press(), say(error))
if {at_exit}:
    atexit.register(press)
cli.app = app
cli.main()
"""


@pytest.mark.parametrize("at_exit", [False, True])
def test_more_of_them_take_no_word_away_and_add_none(at_exit: bool) -> None:
    """A person presses on while the run says how to go on, and while the interpreter ends."""
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT.format(at_exit=at_exit)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "stopped  Interrupted. Go on with: that.\n"
    assert done.returncode == (-signal.SIGINT if at_exit else Interrupted.exit_code)
