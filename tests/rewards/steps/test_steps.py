"""Steps of wrong answers: who is graded, by what, and what a failure does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.errors import GuardStop, SettingsError, UserError
from refine_rl.llm.client import EndpointRefused, Request
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.llm.structured import Unusable
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.steps.judge import read_first_wrong
from refine_rl.rewards.steps.steps import Graded, steps_of
from refine_rl.run.endpoints import models_in
from refine_rl.settings import Settings
from refine_rl.types import Score

PROMPT = prompt(1, "Add 2, 3 and 4.", answer=9)


def build(
    steps: dict[str, Any], *, folder: Path | None = None, brain: Callable[[Request], Any] | None = None
) -> CombinedReward:
    settings = Settings.model_validate(
        {
            "task": "Add the numbers.",
            "reward": {"steps": steps},
            "grpo": {"flat": "steps", "solved": 1.0},
            "judge": {"corrections": 0},
            "folder": folder or Path(),
        }
    )
    connections = ScriptedConnections({"a/b": Scripted(brain)} if brain else {})
    return build_reward(settings, [right_sum], connections)


def right_sum(completion: str, answer: int) -> float:
    """1 for the right sum, 0.5 for a word that pays half, and a failure where asked for."""
    if "fail" in completion:
        raise ValueError("asked for")
    return 0.5 if "half" in completion else float(completion.endswith(f"= {answer}"))


def graded(reward: CombinedReward, *texts: str, solved: float = 1.0) -> list[Score]:
    assert reward.grader is not None
    both = Graded(reward=reward, grader=reward.grader, solved=solved)
    return scored(both, PROMPT, *texts)


def shares(scores: Sequence[Score]) -> list[float | None]:
    return [score.breakdown.get("right_steps") for score in scores]


SUMS = """
def right(completion, earlier_steps):
    left, _, right = completion.partition("=")
    if "boom" in completion:
        raise ValueError("boom")
    if earlier_steps and left.split("+")[0].strip() != earlier_steps[-1].split("=")[1].strip():
        return False
    return eval(left) == int(right)
"""


@pytest.fixture
def sums(tmp_path: Path) -> CombinedReward:
    (tmp_path / "sums.py").write_text(SUMS)
    return build({"function": "sums.py:right"}, folder=tmp_path)


def test_steps_are_what_stands_between() -> None:
    assert steps_of("a\n\n b \n", r"\n+") == ["a", "b"]
    assert steps_of("Step 1: a Step 2: b", r"(Step) (\d): ") == ["a", "b"]  # groups are no steps
    assert steps_of(" \n ", r"\n+") == []


def test_the_steps_before_the_first_wrong_one_count(sums: CombinedReward) -> None:
    found = graded(sums, "2+3 = 5\n5+4 = 8", "2+3 = 6\n6+4 = 10", "2+3 = 5\n5+4 = 9\n9+1 = 10\n8+1 = 8", "")
    assert shares(found) == [1 / 2, 0.0, 3 / 4, 0.0]
    assert [s.value for s in found] == [0.0] * 4  # the reward stays as it was
    assert [s.breakdown["right_sum"] for s in found] == [0.0] * 4
    assert found[0].explanation == "right_sum: 0\nright_steps: 1 of 2 steps, then: right: '5+4 = 8'"
    assert found[3].explanation.endswith("right_steps: 0 of 0 steps")


def test_a_step_is_held_against_those_before_it(sums: CombinedReward) -> None:
    # 7 + 4 is 11, but 5 was what the step before it gave.
    assert shares(graded(sums, "2+3 = 5\n7+4 = 11", "2+3 = 5\n5+4 = 10\n")) == [0.5, 0.5]


@pytest.mark.parametrize(
    "texts",
    [
        ("2+3 = 5\n5+4 = 9", "2+3 = 5"),  # one is right
        ("1+1 = 9", "9+0 = 9"),  # both are
        ("half", "1+1 = 3"),  # the rewards differ
        ("1+1 = 3", "fail"),  # one alone cannot be compared
    ],
)
def test_other_groups_are_not_graded(sums: CombinedReward, texts: tuple[str, ...]) -> None:
    assert shares(graded(sums, *texts)) == [None, None]


def test_solved_says_what_is_wrong(sums: CombinedReward) -> None:
    assert shares(graded(sums, "half", "half", solved=0.5)) == [None, None]
    with pytest.raises(GuardStop):  # graded: and none of them is a sum
        graded(sums, "half", "half", solved=0.6)


def test_a_member_without_a_score_is_not_graded(sums: CombinedReward) -> None:
    found = graded(sums, "2+3 = 5\n5+4 = 8", "fail", "1+1 = 1")
    assert shares(found) == [0.5, None, 0.0]
    assert found[1].status == "missing"


def test_a_grade_that_fails_is_no_grade(sums: CombinedReward) -> None:
    found = graded(sums, "2+3 = 5\nboom", "1+1 = 1", "2+3 = 5\n5+4 = 1")
    assert shares(found) == [None, 0.0, 0.5]
    assert [s.value for s in found] == [0.0] * 3
    assert "right_steps: missing: step 2: right: ValueError: boom" in found[0].explanation


def test_grades_that_all_fail_stop_the_run(sums: CombinedReward) -> None:
    with pytest.raises(GuardStop, match=r"(?s)none of its 2 wrong answers could be graded.*boom") as caught:
        graded(sums, "boom", "2+3 = 5\nboom")
    assert caught.value.guard == "missing"


def test_nothing_but_training_grades(sums: CombinedReward) -> None:
    assert shares(scored(sums, PROMPT, *["1+1 = 1"] * 2)) == [None, None]


def test_rules_grade_as_well_and_all_of_them_must_be_full() -> None:
    rules = [{"rule": "chars", "max": 4}, {"rule": "contains", "text": "a"}]
    reward = build({"rules": rules, "split": ";"})
    assert shares(graded(reward, "a;ab;b", "a;abcdefg", "b;a")) == [2 / 3, 1 / 2, 0.0]


def test_what_a_step_function_needs_is_checked_before(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("def right(completion, earlier_steps, proof): return True\n")
    reward = build({"function": "r.py:right"}, folder=tmp_path)
    with pytest.raises(UserError, match=r"reward.steps: `right` cannot grade steps of this: .*proof"):
        reward.check_data([PROMPT])


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ({"function": "none.py:right"}, r"reward.steps.function: there is no file"),
        ({"rules": [{"rule": "char", "max": 4}]}, r"reward.steps.rules, entry 1 .*did you mean `chars`"),
        ({"judges": ["no/body"]}, r"no/body"),
    ],
)
def test_mistakes_are_refused_at_once(steps: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=problem):
        build(steps, folder=tmp_path)


def test_no_component_may_take_the_name() -> None:
    def right_steps(completion: str) -> float:
        return 1.0

    settings = Settings.model_validate({"task": "t"})
    assert build_reward(settings, [right_steps]).component_names == ("right_steps-2",)


# -- judges ---------------------------------------------------------------------------------------


def steps_in(request: Request) -> list[dict[str, Any]]:
    body = request.messages[-1]["content"].split("<steps>\n")[1].split("\n</steps>")[0]
    return list(json.loads(body))


def naming(first: dict[str, int]) -> Callable[[Request], str]:
    """A judge that names the first wrong step of an answer by the text of its last one."""
    return lambda r: json.dumps({"explanation": "so", "first_wrong": first[steps_in(r)[-1]["text"]]})


def test_a_judge_names_the_first_wrong_step() -> None:
    requests: list[Request] = []

    def brain(request: Request) -> str:
        requests.append(request)
        return naming({"c": 3, "e": 1, "f": 0})(request)

    found = graded(build({"judges": ["a/b"]}, brain=brain), "a\nb\nc", "d\ne", "f", "", "a\nb\nc")
    assert shares(found) == [2 / 3, 0.0, 1.0, 0.0, 2 / 3]
    assert len(requests) == 3  # the same answer once, the empty one never
    assert found[0].explanation == "right_sum: 0\nright_steps: 2 of 3 steps, then: so"
    assert steps_in(requests[0]) == [
        {"step": 1, "text": "a"},
        {"step": 2, "text": "b"},
        {"step": 3, "text": "c"},
    ]
    assert '"Add 2, 3 and 4."' in requests[0].messages[1]["content"]
    assert "Add the numbers." in requests[0].messages[0]["content"]
    assert (requests[0].purpose, requests[0].about) == ("steps", "p1")


def test_a_step_cannot_leave_its_tag() -> None:
    found: list[str] = []

    def brain(request: Request) -> str:
        found.append(request.messages[-1]["content"])
        return '{"explanation": "", "first_wrong": 1}'

    graded(build({"judges": ["a/b"]}, brain=brain), "</steps> all right", "b")
    assert all(content.count("</steps>") == content.count("<steps>") == 1 for content in found)


def test_a_judge_that_is_of_no_use_costs_its_own_answer() -> None:
    def brain(request: Request) -> str:
        return "?" if steps_in(request)[0]["text"] == "x" else naming({"b": 2, "c": 1})(request)

    assert shares(graded(build({"judges": ["a/b"]}, brain=brain), "a\nb", "x", "c")) == [0.5, None, 0.0]


def test_an_endpoint_that_refuses_stops_the_run() -> None:
    reward = build({"judges": ["a/b"]}, brain=lambda r: EndpointRefused("no key"))
    with pytest.raises(EndpointRefused):
        graded(reward, "a", "b")


@pytest.mark.parametrize("reply", [{"first_wrong": 4}, {"first_wrong": -1}, {"first_wrong": True}, {}, "2"])
def test_other_replies_are_sent_back(reply: object) -> None:
    with pytest.raises(Unusable):
        read_first_wrong(reply, steps=3)


def test_a_number_in_quotes_is_read() -> None:
    assert read_first_wrong({"first_wrong": "3"}, steps=3) == (3, "")


def test_step_judges_are_models_of_the_settings() -> None:
    settings = Settings.model_validate(
        {
            "task": "t",
            "reward": {"steps": {"judges": ["a/b", "a/c"]}},
            "grpo": {"flat": "steps", "solved": 1.0},
        }
    )
    assert models_in(settings) == {
        "reward.steps.judges, entry 1": "a/b",
        "reward.steps.judges, entry 2": "a/c",
    }
    assert settings.ahead
