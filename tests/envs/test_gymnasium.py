"""An environment with Gymnasium's interface, played as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_rl.envs.gymnasium import gymnasium_world, is_gymnasium
from refine_rl.envs.stage import stage_of
from refine_rl.errors import SettingsError
from refine_rl.settings import RolloutSettings

ENVIRONMENT = """
import gymnasium

class Hot(gymnasium.Env):
    action_space = observation_space = gymnasium.spaces.Text(32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(options["low"], options["low"] + 100))
        self.left = 3
        return f"from {options['low']}", {}
    def step(self, action):
        self.left -= 1
        right = action == str(self.at)
        return ("yes" if right else "no"), float(right), right, self.left == 0, {"at": self.at}
"""


def play(folder: Path, replies: list[str], seed: int = 7) -> list[Any]:
    (folder / "hot.py").write_text(ENVIRONMENT)
    stage = stage_of(RolloutSettings(environment="hot.py:Hot"), folder)
    assert stage is not None
    (started,) = stage.start({"low": 5}, seed, 1).result(timeout=60)
    said = [started.said]
    for reply in replies:
        (answer,) = stage.step([(started.environment, reply)]).result(timeout=60)
        said.append(answer)
    return said


def test_it_is_reset_with_seed_and_data_and_stepped_with_replies(tmp_path: Path) -> None:
    import numpy as np

    at = str(np.random.Generator(np.random.PCG64(np.random.SeedSequence(7))).integers(5, 105))
    assert play(tmp_path, ["?", at]) == ["from 5", ("no", 0.0, False), ("yes", 1.0, True)]


def test_what_is_truncated_is_over(tmp_path: Path) -> None:
    assert play(tmp_path, ["?"] * 3)[1:] == [("no", 0.0, False), ("no", 0.0, False), ("no", 0.0, True)]


class Ours:
    def start(self, data: Any, seed: int) -> str: ...  # type: ignore[empty-body]
    def step(self, reply: str) -> Any: ...
    def reset(self) -> None: ...


class Odd:
    """Its observations are numbers, its step is that of gym before 0.26."""

    def __init__(self) -> None:
        self.closed = 0

    def reset(self, *, seed: int, options: Any) -> Any:
        return (0 if options else "zero"), {}

    def step(self, action: str) -> Any:
        return "obs", 1.0, True, {}


def test_a_class_with_start_is_one_of_ours() -> None:
    assert is_gymnasium(Odd)
    assert not is_gymnasium(Ours)
    assert not is_gymnasium(Odd())


def test_what_is_no_text_or_no_five_values_says_so() -> None:
    world = gymnasium_world(Odd)
    with pytest.raises(TypeError, match=r"observation 0, which is no text; a gymnasium\.Wrapper"):
        world().start({"a": 1}, 1)
    made = world()
    assert made.start({}, 1) == "zero"
    with pytest.raises(TypeError, match="terminated, truncated, info"):
        made.step("go")


def test_a_class_that_is_neither_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.py").write_text("class No:\n    def step(self, reply): ...\n")
    with pytest.raises(SettingsError, match="has no method `start`"):
        stage_of(RolloutSettings(environment="no.py:No"), tmp_path)
