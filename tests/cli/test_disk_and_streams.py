"""A disk without room, and streams of every kind: said in a sentence, with what was saved and what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import finish
from refine_rl.errors import DiskError, Interrupted, disk_error
from refine_rl.report.screen import Screen
from refine_rl.run import RunFolder
from refine_rl.types import StepMetrics

Refine = Callable[..., Any]
Trained = tuple[Path, Any]


def same(run: Path, whole: Path) -> None:
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json"):
        assert (run / file).read_text() == (whole / file).read_text(), file
    last = "checkpoints/step-000006/weights.safetensors"
    assert (run / last).read_bytes() == (whole / last).read_bytes()


# -- the disk ---------------------------------------------------------------------------------


class Quota:
    """A disk that takes no more after `writes` calls of os.write to files of the run; some of the last one
    still fits."""

    def __init__(self, writes: int) -> None:
        self.left, self.write = writes, os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if descriptor <= 2:
            return self.write(descriptor, data)
        self.left -= 1
        if self.left == 0 and len(data) > 9:
            return self.write(descriptor, data[:9])
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(descriptor, data)


@pytest.mark.parametrize("writes", [3, 9, 14])
def test_a_disk_that_fills_up_loses_nothing(
    refine: Refine, task: Path, tmp_path: Path, trained: Trained, writes: int
) -> None:
    run = tmp_path / "a run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", Quota(writes))
        done = refine("train", task, "--run", run)
    assert (done.code, done.out) == (4, "")
    assert "Traceback" not in done.err
    assert "cannot be written: No space left on device. Make room on that disk." in done.err
    steps = RunFolder(run).recorded_to()
    assert (f"{steps} steps are saved" if steps else "No step was trained yet") in done.err
    assert done.err.rstrip().endswith(f"Go on with: refine train --resume '{run}'")
    for file in run.glob("*.jsonl"):
        assert file.read_bytes().endswith(b"\n") or not file.stat().st_size, file  # no half a line
    assert refine("train", "--resume", run).code == 0
    same(run, trained[0])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB of its own, where the system lets us."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_full_then_read_only(
    refine: Refine, task: Path, trained: Trained, small_disk: Path
) -> None:
    """Checkpoints go to the disk by another library than lines do."""
    run = small_disk / "run"
    done = refine("train", task, "--run", run)
    assert (done.code, done.out) == (4, "")
    assert f"{run / 'checkpoints'}" in done.err
    assert "No space left on device" in done.err
    assert "steps are saved; the newest checkpoint is that of step" in done.err
    assert not [p for p in run.rglob(".*") if p.is_dir()]  # what was half written makes room
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    assert refine("train", "--resume", run).code == 0
    same(run, trained[0])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in (
        ["train", task, "--run", small_disk / "other"],
        ["train", "--resume", run],
        ["report", run],
        ["eval", run],
        ["export", run, "--out", small_disk / "out"],
        ["prompts", task, "--out", small_disk / "out.jsonl"],
        ["init", small_disk / "new"],
    ):
        done = refine(*command)
        assert (done.code, done.out) == (4, ""), command
        assert "Read-only file system. Make that disk writable, or take a folder on another one." in done.err
        assert "Traceback" not in done.err
    assert refine("chat", run, stdin="hello\n").out.startswith("tuned: ")  # reading needs no room


def test_what_did_not_fit_is_not_left_in_half(refine: Refine, task: Path, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(bytes(300 * 1024 - 4096))
    with (small_disk / "more").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    line = {"id": 1, "messages": [{"role": "user", "content": "x"}], "completions": ["a"]}
    Path("groups.jsonl").write_text(json.dumps(line) + "\n")
    local = ["--judge", "a/b", "--base-url", "http://127.0.0.1:9/v1"]
    for command in (
        ["prompts", task, "--out", small_disk / "out.jsonl"],
        ["score", "groups.jsonl", "--out", small_disk / "scores.jsonl", *local],
        ["init", small_disk / "new", "--recipe", "dots"],
        ["train", task, "--run", small_disk / "run"],
    ):
        done = refine(*command)
        assert (done.code, done.out) == (4, ""), command
        assert re.search(rf"{small_disk}/\S+ cannot be written: No space left on device", done.err), done.err
        assert {p.name for p in small_disk.iterdir()} == {"fill", "more"}, command


def test_a_quota_on_the_size_of_files(task: Path, tmp_path: Path) -> None:
    code = (
        "import resource, refine_rl.pipeline.train\nfrom refine_rl.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\nmain()\n"
    )
    done = finish("train", task, "--run", "a", code=code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "cannot be written: File too large. Raise the limit on a file's size (ulimit -f)" in done.stderr
    assert "Traceback" not in done.stderr


def test_whose_fault_it_is() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert str(disk_error(full, Path("a"))).startswith("a cannot be written: No space left on device.")
    assert str(disk_error(full)).startswith("The output cannot be written: ")
    assert disk_error(OSError(errno.EACCES, "Permission denied", "a")) is None
    assert disk_error(ValueError("28")) is None
    wrapped = shutil.Error([("a", "b", "[Errno 28] No space left on device")])
    assert isinstance(disk_error(wrapped, Path("b")), DiskError)


def test_output_that_cannot_be_written(task: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    refine = shlex.quote(str(Path(sys.executable).with_name("refine")))
    for command, code in ((f"{refine} recipes > /dev/full", 4), (f"{refine} recipes >&-", 0)):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert ("The output cannot be written: No space left on device." in done.stderr) == (code == 4)


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 4), (Interrupted("Stopped."), 130)]
)
def test_a_screen_that_raises_ends_the_run(
    refine: Refine, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def step(screen: Screen, metrics: StepMetrics, steps: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "step", step)
        done = refine("train", task, "--run", tmp_path / "run")
    assert (done.code, done.out) == (code, "")
    assert str(error.args[-1]) in done.err
    assert refine("train", "--resume", tmp_path / "run").code == 0


# -- streams ----------------------------------------------------------------------------------

NOISY = """
import os, subprocess, sys
print("at the top of the file")
def score(prompt, completion):
    print("in the reward")
    subprocess.run(["echo", "of a process"])
    return float(len(completion) < 9)

async def later(prompt, completion):
    print("in the async reward")
    return 1.0

def prompts(split, count, seed):
    print("in the prompts")
    return [dict(prompt=f"say {word} to the {split}") for word in "abcdefghijklmnopqrst"[:count]]
"""


def noisy_task(task: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "mine.py").write_text(NOISY)
    text = task.read_text().replace("file:prompts.jsonl", "file:mine.py")
    text = text.replace("rules = [", 'functions = ["mine.py:score", "mine.py:later"]\nrules = [')
    text = text.replace("validation = 4", "train = 12\nvalidation = 4\nnear_duplicate = 1.0")
    (folder / "task.toml").write_text(text.replace("steps = 6", "steps = 1"))
    return folder / "task.toml"


def test_what_foreign_code_prints_is_no_result(refine: Refine, task: Path, tmp_path: Path) -> None:
    noisy = noisy_task(task, tmp_path / "noisy")
    done = finish("train", noisy, "--run", "run", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["run"]) == (0, "run"), done.stderr
    for said in (
        "at the top of the file",
        "in the reward",
        "in the async reward",
        "in the prompts",
        "of a process",
    ):
        assert said in done.stderr
    for command in (
        ["plan", noisy],
        ["plan", noisy, "--probe", "--yes"],
        ["prompts", noisy],
        ["eval", "run"],
    ):
        again = refine(*command, "--json")
        assert again.code == 0, again.err
        json.loads(again.out)
        assert "in the prompts" in again.err or command[0] == "eval"


@pytest.mark.parametrize("command", [["train"], ["plan"], ["prompts"]])
def test_sys_exit_in_a_file_of_prompts_is_an_error(
    refine: Refine, task: Path, tmp_path: Path, command: list[str]
) -> None:
    shutil.copytree(task.parent, tmp_path / "mine")
    file = tmp_path / "mine" / "task.toml"
    file.write_text(file.read_text().replace("file:prompts.jsonl", "file:mine.py"))
    codes = (
        ("import sys\nsys.exit()\n", 2, "None"),
        ("def prompts(split, count, seed):\n\n    raise SystemExit(0)\n", 3, "0"),
        ("def prompts(split, count, seed):\n    quit('no prompts')\n", 2, "'no prompts'"),
    )
    for code, line, value in codes:
        file.with_name("mine.py").write_text(code)
        done = refine(*command, file)
        assert (done.code, done.out) == (2, "")
        assert f"mine.py:{line}: it called sys.exit({value}); return the prompts" in " ".join(
            done.err.split()
        )
    assert not list(tmp_path.glob("runs/*"))


def test_bytes_that_are_no_text_in_a_chat(trained: Trained, tmp_path: Path) -> None:
    unusual = {**os.environ, "COLUMNS": "0", "LINES": "x"}
    done = finish("chat", trained[0], given=b"caf\xe9 \xff\xfe\nthe cat\n", cwd=tmp_path, env=unusual)
    assert (done.returncode, done.stdout.count("tuned: ")) == (0, 2), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [["init", "x", "--task", "caf\udce9"], ["train", "d\udce9"], ["chat", "x", "--system", "\udcff"]],
)
def test_arguments_that_are_no_text(refine: Refine, tmp_path: Path, command: list[str]) -> None:
    done = refine(*command)
    assert (done.code, done.out, list(tmp_path.iterdir())) == (2, "", [])
    assert "is not UTF-8 text: say it in UTF-8." in done.err


@pytest.mark.parametrize("columns", ["0", "-5", "", "many", "1", "10"])
def test_a_terminal_of_no_width(
    refine: Refine, task: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for command in (["--help"], ["train", "--help"], ["recipes"], ["plan", task], ["trian"]):
        done = refine(*command)
        assert done.code == (2 if command == ["trian"] else 0), done.err
        assert len(done.out + done.err) > 20
    assert "No such command 'trian'. Did you mean 'train'?" in " ".join(done.err.split())


# -- commands that are printed ----------------------------------------------------------------


def test_printed_commands_are_words_of_a_shell(
    refine: Refine, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "it's my task"
    shutil.copytree(task.parent, mine)
    run = tmp_path / "my $HOME runs" / "a & b"
    short = ["--set", "grpo.steps=1"]

    def printed(text: str, *, of: str) -> list[str]:
        (line,) = [line for line in text.splitlines() if f"refine {of} " in line]
        return shlex.split(line[line.index(f"refine {of} ") :])[1:]

    done = refine("train", mine, "--run", run, *short)
    assert printed(done.out, of="chat") == ["chat", str(run)]
    again = refine("train", mine, "--run", run)
    assert f"refine chat '{run}'" in again.err
    assert printed(refine("train", "--resume", run).err.replace("\n          ", " "), of="eval") == [
        "eval",
        str(run),
    ]
    out = refine("init", tmp_path / "a new one", "--task", "Say hi.").out
    assert printed(out, of="train") == ["train", str(tmp_path / "a new one" / "task.toml")]
    stopped = refine("train", mine, "--run", f"{run} 2", "--set", "budget.hours=1e-9")
    assert printed(stopped.err, of="train")[:3] == ["train", "--resume", f"{run} 2"]
    assert f"refine train --resume '{run} 2'" in refine("chat", f"{run} 2").err
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["/my programs/refine"])
    from refine_rl.cli.training import program

    assert program() == "'/my programs/refine'"
