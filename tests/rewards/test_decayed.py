"""The rewards of a serial group."""

from __future__ import annotations

import pytest

from make import prompt, scored
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.decayed import Decayed, decayed
from refine_rl.settings import Settings
from refine_rl.types import Score


@pytest.mark.parametrize(
    ("rights", "rewards"),
    [
        ([True, True, True, True], (1.0, 0.5, 0.25, 0.125)),
        ([False, False, True, False, True], (0.0, 0.0, 1.0, 0.0, 0.5)),
        ([True, False, False], (1.0, 0.0, 0.0)),
        ([False, False], (0.0, 0.0)),
        ([True, None, True], (1.0, None, 0.5)),
        ([None, True], (None, 1.0)),
        ([], ()),
    ],
)
def test_a_right_answer_earns_half_of_the_right_one_before_it(
    rights: list[bool | None], rewards: tuple[float | None, ...]
) -> None:
    assert decayed(rights) == rewards


def test_right_is_full_success() -> None:
    def graded(completion: str) -> Score:
        if completion == "lost":
            return Score.missing("no reply")
        if completion == "broken":
            return Score(value=1.0, status="invalid", explanation="no answer in it")
        return Score(value=float(completion))

    settings = Settings.model_validate({"task": "t", "reward": {"success": 0.8, "weights": {"graded": 3.0}}})
    reward = Decayed(reward=build_reward(settings, [graded]))
    scores = scored(reward, prompt(), "0.7", "0.8", "lost", "broken", "1")
    assert [s.value for s in scores] == [0.0, 1.0, None, 0.0, 0.5]
    assert [s.status for s in scores] == ["scored", "scored", "missing", "invalid", "scored"]
    assert [s.breakdown.get("graded") for s in scores] == [0.7, 0.8, None, 1.0, 1.0]
    assert scores[0].explanation == "graded: 0.7\nearly exit: not right, so it earns 0"
    assert scores[4].explanation == "graded: 1\nearly exit: right, so it earns 0.5"
    assert scores[2].explanation == "graded: missing: no reply"
    assert reward.name == "reward"
