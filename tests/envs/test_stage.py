"""The user's environment: found, understood, refused with a word."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest

from refine_rl.envs.stage import Stage, stage_of
from refine_rl.errors import SettingsError
from refine_rl.settings import RolloutSettings

GOOD = """
class Good:
    def start(self, data, seed): return ""
    def step(self, reply): return "", 0.0, True
"""


def staged(folder: Path, text: str, name: str = "Good", file: str = "env.py") -> Stage | None:
    (folder / "env.py").write_text(text)
    return stage_of(RolloutSettings(environment=f"{file}:{name}"), folder)


def test_without_an_environment_there_is_no_stage(tmp_path: Path) -> None:
    assert stage_of(RolloutSettings(), tmp_path) is None


def test_limits_come_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "env.py").write_text(GOOD)
    rollout = RolloutSettings(environment="env.py:Good", turns=3, max_tokens=5, trajectory_tokens=50)
    stage = stage_of(rollout, tmp_path)
    assert stage is not None
    assert (stage.name, stage.turns, stage.tokens, stage.as_sampled) == ("Good", 3, 50, False)


@pytest.mark.parametrize(
    ("text", "name", "file", "why"),
    [
        (GOOD, "God", "env.py", "has no class `God`; did you mean `Good`?"),
        (GOOD, "Good", "evn.py", "there is no file .*evn.py; did you mean `env.py`?"),
        ("1 / 0", "Good", "env.py", r"cannot be loaded: ZeroDivisionError.*(?s:.*)line 1"),
        ("import sys; sys.exit(3)", "Good", "env.py", "cannot be loaded: SystemExit: 3"),
        ("def Good(: pass", "Good", "env.py", "cannot be loaded: .*(?s:.*)SyntaxError"),
        ("def Good(): pass", "Good", "env.py", "`env.py:Good` is no class; it wants a class with `start"),
        ("Good = 3", "Good", "env.py", "has no class `Good`"),
        ("class Good:\n def step(self, reply): ...", "Good", "env.py", "has no method `start`"),
        (
            GOOD.replace("self, reply", "self"),
            "Good",
            "env.py",
            r"has `step\(self\)`, and it is called with r",
        ),
        (
            GOOD.replace("data, seed", "seed"),
            "Good",
            "env.py",
            r"has `start\(self, seed\)`.* with data, seed",
        ),
        (f"{GOOD}    def __init__(self, size): ...", "Good", "env.py", "`__init__.*called with no argument"),
    ],
)
def test_what_is_no_environment(tmp_path: Path, text: str, name: str, file: str, why: str) -> None:
    with pytest.raises(SettingsError, match=rf"rollout.environment: .*{why}"):
        staged(tmp_path, text, name, file)


def test_more_parameters_with_defaults_are_fine(tmp_path: Path) -> None:
    assert staged(tmp_path, GOOD.replace("self, reply", "self, reply, loud=False")) is not None


def test_threads_end_with_the_stage(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    stage = staged(tmp_path, GOOD)
    assert stage is not None
    assert [s.said for s in stage.start({}, 0, 2).result(timeout=60)] == ["", ""]
    threads = set(threading.enumerate()) - before
    assert threads
    gone = weakref.ref(stage)
    del stage
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
