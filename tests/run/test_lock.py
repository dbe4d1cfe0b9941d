"""Who holds a run, seen by one who does not touch its lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refine_rl.run.lock import LOCK, Hold, Lock, hold

needs_posix = pytest.mark.skipif(os.name != "posix", reason="processes are asked for as POSIX does")


def test_a_lock_says_who_holds_it_as_long_as_it_is_held(tmp_path: Path) -> None:
    assert hold(tmp_path) is None
    lock = Lock.take(tmp_path)
    assert lock is not None
    held = hold(tmp_path)
    assert held is not None
    assert held.pid == os.getpid()
    assert Lock.take(tmp_path) is None  # and asking took nothing
    assert hold(tmp_path) == held
    lock.release()
    assert hold(tmp_path) is None
    assert (tmp_path / LOCK).read_bytes() == b""


@needs_posix
def test_whether_the_process_lives(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from refine_rl.run.lock import Lock\n"
        f"lock = Lock.take(Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    held = hold(tmp_path)
    assert held is not None
    assert held.pid == child.pid
    assert held.alive is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has taken note
    if sys.platform == "linux":
        assert held.alive is False
    child.wait()
    assert held.alive is False
    assert hold(tmp_path) == held  # nobody could take it back
    lock = Lock.take(tmp_path)
    assert lock is not None
    taken = hold(tmp_path)
    assert taken is not None
    assert taken.pid == os.getpid()
    assert taken.alive is True
    lock.release()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()


@needs_posix
def test_another_process_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path)
    mine = hold(tmp_path)
    assert lock is not None
    assert mine is not None
    lock.release()
    if mine.began:
        assert Hold(pid=mine.pid, where=mine.where, began="1", since=mine.since).alive is False
    elsewhere = Hold(pid=mine.pid, where="another machine", began=mine.began, since=mine.since)
    assert elsewhere.alive is None


HELD = {"pid": 1, "where": "here", "began": "1", "since": 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"pid": 1}',
        "\xff",
        *(json.dumps(HELD | {"pid": pid}) for pid in (-1, 0, "a", 2**40)),
    ],
)
def test_a_lock_that_does_not_say(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text, encoding="latin-1")
    assert hold(tmp_path) is None
