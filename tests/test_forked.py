"""A process that begins with everything imported is a process of its own, as a fresh one would be."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from forked import PIPE, begin, finish

LOOK = """
import json, os, sys
print(json.dumps([
    sys.argv, os.getcwd(), os.environ.get("HOME"), os.environ.get("ONLY_HERE"), sys.stdin.read(),
    "peft" in sys.modules, any(p.endswith("tests") for p in sys.path), os.getpid(),
]))
print("caf\\udce9", file=sys.stderr)
sys.exit(7)
"""


def test_what_it_is_given_and_how_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setenv("HOME", "mine")
    done = finish("a", "b", code=LOOK, given=b"hello", cwd=tmp_path, env={"ONLY_HERE": "1"})
    *seen, pid = json.loads(done.stdout)
    assert seen == [["-c", "a", "b"], str(tmp_path), None, "1", "hello", True, False]
    assert pid != os.getpid()
    assert (done.returncode, done.stderr) == (7, "caf\\udce9\n")


def test_it_is_the_command() -> None:
    done = finish("train", "not there.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such file" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 1)])
def test_it_can_be_stopped(number: int, code: int) -> None:
    child = begin(code="import time; print('there', flush=True); time.sleep(600)", stdout=PIPE, stderr=PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    assert (child.stdout.readline(), child.poll()) == (b"there\n", None)
    child.send_signal(number)
    assert child.wait(60) == code
    assert (b"KeyboardInterrupt" in child.stderr.read()) == (number == signal.SIGINT)
    child.stdout.close()
    child.stderr.close()
