"""refine watch beside a real training: neither notices the other, whichever of them is killed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from browsing import Visit, browser, needs_browser
from forked import begin
from refine_rl.run import RunFolder

__all__ = ["browser"]
Refine = Callable[..., Any]
STEPS = 16
# It does not come back from so many calls on as the file "calls" says, while that is there.
REWARD = """
from pathlib import Path
import time

limit = Path(__file__).with_name("calls")
calls = 0  # 18 for the base model, 12 a step, and those of the validation

def patient(completion):
    global calls
    calls += 1
    while limit.exists() and calls > int(limit.read_text()):
        time.sleep(0.02)
    return 1.0 if len(completion) < 8 else 0.0
"""


@pytest.fixture(scope="module")
def patient(patient_task: Callable[[str, int], Path]) -> Path:
    return patient_task(REWARD, STEPS)


def same(a: Path, b: Path) -> None:
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json", "prompts.jsonl"):
        assert (a / file).read_text() == (b / file).read_text(), file
    for file in (f"checkpoints/step-{STEPS:06d}/weights.safetensors", "model/adapter_model.safetensors"):
        assert (a / file).read_bytes() == (b / file).read_bytes(), file
    assert {p.relative_to(a) for p in a.rglob("*")} == {p.relative_to(b) for p in b.rglob("*")}


class Child:
    """`refine` at work in a process of its own."""

    def __init__(self, log: Path, *arguments: str | Path) -> None:
        self.log = log
        with log.open("wb") as out:
            if arguments[0] == "train":
                self.process: Any = begin(*arguments, stdout=out, stderr=out)
            else:
                command = [str(Path(sys.executable).with_name("refine")), *map(str, arguments)]
                self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def said(self, pattern: str) -> str:
        return str(until(lambda: re.search(pattern, self.log.read_text()), self)[0])

    def address(self) -> str:
        return self.said(r"http://127\.0\.0\.1:\d+/")


def until(ready: Callable[[], Any], *alive: Child) -> Any:
    deadline = time.monotonic() + 100
    while not (found := ready()):
        for child in alive:
            assert child.process.poll() is None, child.log.read_text()
        assert time.monotonic() < deadline, [child.log.read_text() for child in alive]
        time.sleep(0.02)
    return found


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as reply:
        return str(reply.read().decode())


def state(address: str) -> str:
    found = re.search(r'id="live-state"[^>]*>([^<]*)<', get(address + "strip"))
    assert found is not None
    return found[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    with ExitStack() as stack:

        def started(*arguments: str | Path) -> Child:
            child = Child(tmp_path / f"log-{time.monotonic_ns()}", *arguments)
            stack.callback(child.kill)
            return child

        yield started


@pytest.fixture
def stage(patient: Path, tmp_path: Path, start: Callable[..., Child]) -> Iterator[SimpleNamespace]:
    """The run's folder, and how far the training may come before it waits."""
    calls = patient.with_name("calls")

    def to(step: int) -> None:
        calls.write_text(str(18 + 12 * step + 40))

    def steps() -> int:
        return len(RunFolder(run).metrics())

    run = tmp_path / "run"
    yield SimpleNamespace(run=run, to=to, on=lambda: calls.unlink(), steps=steps)
    calls.unlink(missing_ok=True)


def test_a_training_does_not_notice_who_watches_it_nor_that_they_are_killed(
    stage: SimpleNamespace, patient: Path, whole: Path, start: Callable[..., Child]
) -> None:
    first = start("watch", stage.run, "--port", "0", "--no-open")
    address = first.address()
    first.said("the page waits for it to begin")
    assert state(address) == "Waiting for the run to begin"
    stage.to(3)
    training = start("train", patient, "--run", stage.run)
    until(lambda: stage.steps() >= 1 and state(address) == "Running", first, training)
    assert f"of {STEPS}</span>" in get(address + "strip")
    first.kill()  # SIGKILL
    stage.to(6)
    before = stage.steps()
    until(lambda: stage.steps() > before, training)
    second = start("watch", stage.run, "--port", "0", "--no-open")
    address = second.address()
    assert state(address) == "Running"
    stage.on()
    assert training.process.wait(100) == 0
    until(lambda: state(address) == "Finished" and 'id="evidence"' in get(address), second)
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(60) == 0
    said = second.log.read_text()
    assert said.endswith(f"{stage.run} is no longer watched.\n")
    assert "Traceback" not in said
    with pytest.raises(urllib.error.URLError):
        get(address)
    same(whole, stage.run)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns)
        for p in [folder, *folder.rglob("*")]
    }


def test_watching_writes_nothing_and_takes_no_lock(
    trained: tuple[Path, SimpleNamespace], tmp_path: Path, start: Callable[..., Child]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    before = snapshot(run)
    watching = start("watch", run, "--port", "0", "--no-open")
    address = watching.address()
    until(lambda: 'id="evidence"' in get(address), watching)
    assert state(address) == "Finished"
    assert snapshot(run) == before
    with RunFolder(run).writing():  # refused where somebody holds it
        assert state(address) == "Finished"
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(60) == 0
    after = snapshot(run)
    after[".lock"] = before[".lock"]  # was held in between by this test
    assert after == before


@needs_browser
def test_a_training_in_a_real_browser(
    browser: Any, stage: SimpleNamespace, patient: Path, whole: Path, start: Callable[..., Child]
) -> None:
    stage.to(2)
    training = start("train", patient, "--run", stage.run)
    until(lambda: stage.steps() >= 1, training)
    watching = start("watch", stage.run, "--port", "0", "--no-open")
    visit = Visit(browser, watching.address(), viewport={"width": 1280, "height": 900})
    says = "text => document.getElementById('live-state').textContent === text"
    steps = "n => Number(/step (\\d+)/.exec(document.getElementById('live-steps').innerText)[1]) > n"
    drawn = "n => Number(/(\\d+) of/.exec(document.querySelector('h1')?.innerText || '')?.[1]) > n"
    visit.wait(says, "Running")
    visit.wait(drawn, 0)
    now = stage.steps()
    stage.to(5)
    visit.wait(steps, now)
    visit.wait(drawn, now)
    training.process.kill()
    visit.wait(says, "Broken off")
    assert f"Go on with: refine train --resume {stage.run}" in visit.page.inner_text("#live-why")
    stage.on()
    again = start("train", "--resume", stage.run)
    visit.wait(says, "Finished")
    assert again.process.wait(100) == 0
    visit.wait("() => document.querySelector('h1').innerText.startsWith('The tuned model')")
    watching.kill()
    visit.wait("() => document.getElementById('live-state').textContent.startsWith('Connection lost')")
    assert all(url.startswith("http://127.0.0.1:") for url in visit.requests)
    assert all("ERR_" in text for text in visit.complaints), visit.complaints  # but that nobody answers now
    visit.context.close()
    same(whole, stage.run)


def test_what_is_no_run_is_refused(refine: Refine, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no run")
    for wrong in ("notes", "notes/a.txt"):
        done = refine("watch", wrong, "--no-open")
        assert done.code == 2
        assert f"{wrong} is no run, and none can begin there" in done.err
    done = refine("watch", "run", "--port", "65536")
    assert done.code == 2
    assert "less than or equal to 65535" in done.err


def test_a_port_that_is_taken_and_a_name_that_was_mistyped(
    trained: tuple[Path, SimpleNamespace], start: Callable[..., Child]
) -> None:
    first = start("watch", trained[0], "--port", "0", "--no-open")
    port = first.address().rstrip("/").rpartition(":")[2]
    second = start("watch", trained[0].with_name("shortr"), "--port", port, "--no-open")
    assert second.address() != first.address()
    second.said(f"Port {port} is taken; this is the next free one.")
    second.said(r"to begin. Did you mean .*shorter\?")


def test_the_browser_is_opened_where_that_is_asked_for(
    refine: Refine, trained: tuple[Path, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    from refine_rl.cli.interrupt import StopNow

    opened: list[str] = []

    def stop() -> None:
        raise StopNow("Interrupted.")

    def opens(address: str) -> bool:
        opened.append(address)
        assert state(address) == "Finished"
        return False

    monkeypatch.setattr("webbrowser.open", opens)
    monkeypatch.setattr("refine_rl.cli.watch.until_stopped", stop)
    done = refine("watch", trained[0], "--port", "0", "--open")
    assert done.code == 0
    assert opened == re.findall(r"http://127\.0\.0\.1:\d+/", done.out)
    assert f"No browser could be opened: open {opened[0]} yourself." in done.err
    for how in ((), ("--no-open",)):  # there is no terminal here
        assert refine("watch", trained[0], "--port", "0", *how).code == 0
    assert len(opened) == 1


def test_from_afar_it_says_how_to_see_it(
    refine: Refine, trained: tuple[Path, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    from refine_rl.cli.interrupt import StopNow

    def stop() -> None:
        raise StopNow("Interrupted.")

    monkeypatch.setattr("refine_rl.cli.watch.until_stopped", stop)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 5 10.0.0.2 22")
    done = refine("watch", trained[0], "--port", "0")
    port = done.out.rstrip("/\n").rpartition(":")[2]
    assert f"ssh -L {port}:127.0.0.1:{port} " in done.err
