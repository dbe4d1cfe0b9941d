"""The scorers of a run: who scores in training, validation and exam, and what their numbers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.errors import SettingsError, UserError
from refine_rl.llm.scripted import ScriptedConnections
from refine_rl.rewards.base import Scorer
from refine_rl.rewards.build import Scorers, build_scorers, panels, quiz_of
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.decayed import Decayed
from refine_rl.rewards.judges.rubric import default_rubric
from refine_rl.rewards.steps.steps import Graded
from refine_rl.settings import Settings, SFTSettings

PROMPT = prompt(1, "Add.", answer="9")
EXITS = {"early_exit": {"ends": "</think>"}, "max_tokens": 100}
STEPS = {"steps": {"rules": [{"rule": "contains", "text": "="}], "split": r"\n"}}
GRADED: dict[str, Any] = {"reward": STEPS, "grpo": {"flat": "steps", "solved": 1.0}}
WORDS = {"rules": [{"rule": "words", "max": 2, "weight": 2.0}, {"rule": "lines", "max": 1, "weight": 0.5}]}
JUDGED: dict[str, Any] = {"reward": {"judges": ["scripted/judge"]}}
QUIZ = {"quiz": {"writer": "scripted/writer", "reader": "scripted/judge", "weight": 3.0}}


def right(completion: str) -> float:
    return float(completion.endswith("9"))


def scorers(*functions: Any, rubric: str = "", folder: Path | None = None, **tables: Any) -> Scorers:
    settings = Settings.model_validate({"task": "Add up.", "folder": folder or Path(), **tables})
    names = ("judge", "other", "big", "exam", "writer")
    connections = ScriptedConnections({f"scripted/{name}": [] for name in names})
    return build_scorers(settings, functions, connections, rubric)


def values(scorer: Scorer, *texts: str) -> list[float | None]:
    return [one.value for one in scored(scorer, PROMPT, *texts)]


def test_one_reward_trains_validates_and_examines() -> None:
    made = scorers(right)
    assert made.training is made.validation is made.exam
    assert values(made.training, "8", "9") == [0.0, 1.0]


@pytest.mark.parametrize(
    ("reward", "judge", "relative", "top", "weights"),
    [
        (WORDS, {}, False, 3.5, {"words": 2.0, "lines": 0.5, "right": 1.0}),
        ({**WORDS, "weights": {"right": -4.0}}, {}, False, 2.5, {"words": 2.0, "lines": 0.5, "right": -4.0}),
        ({**WORDS, "combine": "product"}, {}, False, 1.0, {"words": 2.0, "lines": 0.5, "right": 1.0}),
        (
            {"overlong": {"limit": 50, "unit": "words", "weight": 0.25}},
            {},
            False,
            1.0,
            {"right": 1.0, "overlong": 0.25},
        ),
        (
            {"overlong": {"limit": 50, "unit": "words"}, "combine": "product"},
            {},
            False,
            1.0,
            {"right": 1.0, "overlong": 1.0},
        ),
        (QUIZ, {}, False, 4.0, {"right": 1.0, "quiz": 3.0}),
        (JUDGED["reward"], {"weight": 2.0}, True, None, {"right": 1.0, "judge": 2.0}),
        (JUDGED["reward"], {"kind": "pairwise"}, True, None, {"right": 1.0, "judge": 1.0}),
        (JUDGED["reward"], {"kind": "absolute"}, False, 2.0, {"right": 1.0, "judge": 1.0}),
        (JUDGED["reward"], {"weight": 0.0}, False, 1.0, {"right": 1.0, "judge": 0.0}),
        ({**JUDGED["reward"], "combine": "product"}, {}, True, None, {"right": 1.0, "judge": 1.0}),
    ],
)
def test_what_the_numbers_mean(
    reward: dict[str, Any],
    judge: dict[str, Any],
    relative: bool,
    top: float | None,
    weights: dict[str, float],
) -> None:
    made = scorers(right, reward=reward, judge=judge)
    for scorer in (made.training, made.validation, made.exam):
        assert (scorer.relative, scorer.top, scorer.weights) == (relative, top, weights)
        assert list(scorer.weights) == list(weights)


def test_early_exits_are_paid_in_training_alone() -> None:
    made = scorers(right, reward={"weights": {"right": 3.0}}, rollout=EXITS)
    assert isinstance(made.training, Decayed)
    assert made.training.reward is made.validation is made.exam
    assert values(made.training, "8", "9", "9") == [0.0, 1.0, 0.5]
    assert values(made.validation, "8", "9", "9") == [0.0, 3.0, 3.0]
    assert (made.training.top, made.validation.top) == (1.0, 3.0)
    assert made.training.weights == made.validation.weights == {"right": 3.0}
    assert (made.training.name, made.training.relative) == ("reward", False)
    last = scored(made.training, PROMPT, "9", "9")[1]
    assert (last.value, made.training.success(last)) == (0.5, True)  # by its breakdown: it is right


def test_steps_are_graded_in_training_alone() -> None:
    reward = {**STEPS, "weights": {"right": 3.0}}
    made = scorers(right, reward=reward, grpo={"flat": "steps", "solved": 1.0})
    assert isinstance(made.training, Graded)
    assert made.training.reward is made.validation is made.exam
    graded = scored(made.training, PROMPT, "2 = 2\nno", "no")
    assert [s.value for s in graded] == [0.0, 0.0]
    assert [s.breakdown for s in graded] == [
        {"right": 0.0, "right_steps": 0.5},
        {"right": 0.0, "right_steps": 0.0},
    ]
    assert [s.breakdown for s in scored(made.validation, PROMPT, "2 = 2\nno", "no")] == [{"right": 0.0}] * 2
    assert (made.training.top, made.training.relative, made.training.name) == (3.0, False, "reward")
    assert made.training.weights == {"right": 3.0}  # a share of steps is no component
    assert [made.training.success(s) for s in scored(made.training, PROMPT, "9", "8")] == [True, False]


def test_a_scorer_around_a_relative_one_has_no_top() -> None:
    made = scorers(right, **JUDGED)
    assert Decayed(reward=made.validation).top is None
    assert Graded(reward=made.validation, grader=made.validation, solved=1.0).top is None


def test_another_judge_may_examine() -> None:
    reward = {**JUDGED["reward"], **QUIZ, "overlong": {"limit": 50, "unit": "words"}}
    reward["quiz"] = {"writer": "scripted/writer"}  # read by the first judge
    made = scorers(
        right,
        reward=reward,
        judge={"repeats": 3, "adaptive": True, "larger": "scripted/big", "weight": 2.0},
        evaluate={"judge": "scripted/exam"},
    )
    assert made.training is made.validation
    assert made.exam is not made.validation
    ours, theirs = made.validation.panel, made.exam.panel
    assert ours is not None
    assert theirs is not None
    assert [client.model for client in theirs.judges] == ["scripted/exam"]
    assert (theirs.repeats, theirs.adaptive, theirs.larger) == (3, False, None)
    assert (ours.adaptive, ours.larger is not None) == (True, True)
    assert theirs.judging == ours.judging
    assert made.exam.weights == made.validation.weights
    quizzes = [quiz_of(made.validation), quiz_of(made.exam)]
    assert [quiz.reader.client.model for quiz in quizzes if quiz] == ["scripted/judge", "scripted/exam"]


def test_another_eye_is_a_judge_of_its_own_or_what_is_only_watched(tmp_path: Path) -> None:
    (tmp_path / "strict.md").write_text("Be strict.\n")
    assert scorers(right).eye is None
    watching = {"rules": [{"rule": "words", "max": 2, "weight": 0.0}]}
    made = scorers(right, reward=watching, evaluate={"on_drift": "warn"})
    assert made.eye is not None
    assert (made.eye.reward, made.eye.watched) == (None, ["words"])
    other = {"on_drift": "stop", "rubric": "file:strict.md"}
    judged = {"reward": {**watching, **JUDGED["reward"]}, "judge": {"repeats": 2}}
    for named, who in (({}, "scripted/judge"), ({"judge": "scripted/exam"}, "scripted/exam")):
        made = scorers(right, **judged, evaluate={**other, **named}, folder=tmp_path)
        assert made.eye is not None
        assert made.eye.reward is not None
        assert made.eye.reward.component_names == ("judge",)
        panel = made.eye.reward.panel
        assert panel is not None
        assert [client.model for client in panel.judges] == [who]
        assert (panel.repeats, panel.relative) == (2, False)  # though the reward's judges rank a group
        assert panel.judging.rubric == "Be strict."
    made = scorers(
        right, evaluate={"on_drift": "warn", "judge": "scripted/exam"}
    )  # rules are what is paid for
    assert made.exam is made.validation
    assert made.eye is not None
    assert made.eye.reward is not None
    assert panels(made) == {"evaluate.judge": made.eye.reward.panel}


def test_panels_stand_by_the_setting_that_names_them() -> None:
    assert panels(scorers(right, **GRADED)) == {}
    made = scorers(right, **JUDGED)
    assert panels(made) == {"reward.judges": made.validation.panel}
    made = scorers(right, **JUDGED, evaluate={"judge": "scripted/exam"})
    assert panels(made) == {"reward.judges": made.validation.panel, "evaluate.judge": made.exam.panel}
    made = scorers(
        right,
        reward={"steps": {"judges": ["scripted/other"], "split": r"\n"}},
        grpo={"flat": "steps", "solved": 1.0},
    )
    assert panels(made) == {"reward.steps.judges": made.validation.grader}


def test_a_reward_without_a_quiz_has_none() -> None:
    assert quiz_of(scorers(right).validation) is None
    assert quiz_of(scorers(reward=QUIZ).validation) is not None


def rubrics(made: Scorers) -> list[Any]:
    found: list[Any] = [scorer.panel for scorer in (made.validation, made.exam)]
    return [panel.judging.rubric for panel in found]


def test_all_judge_by_the_text_that_is_handed_in_or_by_what_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "r.md").write_text("Be brief.\n")
    named: dict[str, Any] = {"evaluate": {"judge": "scripted/exam"}, "folder": tmp_path}
    judges = JUDGED["reward"]
    assert rubrics(scorers(**named, reward=judges)) == [default_rubric()] * 2
    assert rubrics(scorers(**named, reward={**judges, "rubric": "file:r.md"})) == ["Be brief."] * 2
    assert (
        rubrics(scorers(**named, reward={**judges, "rubric": "file:r.md"}, rubric="Given.")) == ["Given."] * 2
    )
    to_write: dict[str, Any] = {
        **named,
        "reward": {**judges, "rubric": "write"},
        "writer": {"model": "scripted/writer"},
    }
    assert rubrics(scorers(**to_write)) == [default_rubric()] * 2  # as long as nobody has written it
    assert rubrics(scorers(**to_write, rubric="Written.")) == ["Written."] * 2


def test_a_rubric_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"r\.md"):
        scorers(reward={**JUDGED["reward"], "rubric": "file:r.md"}, folder=tmp_path)


def test_nothing_to_score_by_is_refused() -> None:
    with pytest.raises(SettingsError, match="nothing says what is good") as refused:
        build_scorers(Settings(task="t"))
    assert "refine sft" not in str(refused.value)
    with pytest.raises(SettingsError, match=r"without one: refine sft TASK$"):
        build_scorers(Settings(task="t", sft=SFTSettings(data="file:pairs.jsonl")))


def test_the_penalty_counts_by_its_weight_and_not_for_the_top() -> None:
    reward = {"overlong": {"kind": "linear", "limit": 2, "unit": "words", "weight": 0.25}}
    made = scorers(right, reward=reward)
    assert isinstance(made.exam, CombinedReward)
    assert values(made.training, "9", "1 2 3 9") == [1.0, 1 - 0.25]
    assert made.training.top == 1.0
