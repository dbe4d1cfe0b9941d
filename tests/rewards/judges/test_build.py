"""Judges beside rules in one reward: building, gates, thresholds, agreement, what stops a run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.errors import GuardStop, SettingsError
from refine_rl.llm.client import EndpointDown, Request
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.rewards.build import build_panel, build_reward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.judges.absolute import Absolute
from refine_rl.rewards.judges.pairwise import Pairwise
from refine_rl.rewards.judges.rubric import default_rubric
from refine_rl.rewards.judges.ruler import Ruler
from refine_rl.settings import Settings
from refine_rl.types import Prompt, Score

PROMPT = prompt()
SHOWN = re.compile(r'<trajectory id="([^"]*)">\n(.*)\n</trajectory>')


def by_length(request: Request) -> str:
    """A judge: a tenth for each character, at most 1."""
    shown = {i: json.loads(t)[0]["content"] for i, t in SHOWN.findall(request.messages[1]["content"])}
    return json.dumps(
        {
            "scores": [
                {"trajectory_id": i, "explanation": "so", "score": min(1, len(text) / 10)}
                for i, text in shown.items()
            ]
        }
    )


def settings(folder: Path = Path(), **tables: Any) -> Settings:
    reward = {"judges": ["scripted/judge"], **tables.pop("reward", {})}
    return Settings.model_validate({"task": "Be polite.", "reward": reward, "folder": folder, **tables})


def build(brain: Any = by_length, *functions: Any, **tables: Any) -> tuple[CombinedReward, Scripted]:
    client = Scripted(brain, model="scripted/judge")
    models: dict[str, Any] = {
        "scripted/judge": client,
        "scripted/other": by_length,
        "scripted/big": by_length,
    }
    return build_reward(settings(**tables), functions, ScriptedConnections(models)), client


def score(reward: CombinedReward, *texts: str) -> list[Score]:
    return scored(reward, PROMPT, *texts)


def polite(completion: str) -> float:
    return float("please" in completion)


def test_the_panel_follows_the_settings() -> None:
    models: dict[str, Any] = {"scripted/judge": [], "scripted/other": [], "scripted/big": []}
    made = build_panel(
        settings(
            reward={"judges": ["scripted/judge", "scripted/other"], "rubric": "Be strict."},
            judge={
                "repeats": 2,
                "adaptive": True,
                "larger": "scripted/big",
                "agree": 0.25,
                "temperature": 0.5,
                "max_tokens": 99,
                "corrections": 1,
            },
            grpo={"seed": 7},
        ),
        ScriptedConnections(models),
    )
    assert made.judging == Ruler(
        task="Be polite.", rubric="Be strict.", seed=7, temperature=0.5, max_tokens=99, corrections=1
    )
    assert [client.model for client in made.judges] == ["scripted/judge", "scripted/other"]
    assert made.larger is not None
    assert (made.name, made.larger.model) == ("judge", "scripted/big")
    assert (made.repeats, made.adaptive, made.agree, made.relative) == (2, True, 0.25, True)


@pytest.mark.parametrize(
    ("kind", "of", "relative"), [("absolute", Absolute, False), ("pairwise", Pairwise, True)]
)
def test_the_kind_of_judging_is_that_of_the_settings(kind: str, of: type, relative: bool) -> None:
    reward, _ = build(judge={"kind": kind})
    assert reward.panel is not None
    assert isinstance(reward.panel.judging, of)
    assert reward.relative is relative


def test_the_rubric_is_given_or_that_of_the_settings_or_the_general_one() -> None:
    connections = ScriptedConnections({"scripted/judge": [], "scripted/writer": []})

    def rubric(given: str = "", **tables: Any) -> Any:
        judging: Any = build_panel(settings(**tables), connections, given).judging
        return judging.rubric

    assert rubric() == default_rubric()
    assert rubric(reward={"rubric": "Be strict."}) == "Be strict."
    assert rubric("Given.", reward={"rubric": "Be strict."}) == "Given."
    to_write: dict[str, Any] = {"reward": {"rubric": "write"}, "writer": {"model": "scripted/writer"}}
    assert rubric(**to_write) == default_rubric()
    assert rubric("Written.", **to_write) == "Written."


def test_a_judge_is_a_component_beside_rules() -> None:
    reward, _ = build(
        by_length, polite, judge={"weight": 2.0}, reward={"rules": [{"rule": "words", "max": 2}]}
    )
    assert reward.component_names == ("words", "polite", "judge")
    assert reward.weights == {"words": 1.0, "polite": 1.0, "judge": 2.0}
    first, second = score(reward, "please", "a b c")
    assert first.breakdown == {"words": 1.0, "polite": 1.0, "judge": 0.6}
    assert (first.value, first.status) == (pytest.approx(3.2), "scored")
    assert first.explanation.endswith("\njudge: so")
    assert second.breakdown["judge"] == 0.5


def test_a_name_that_is_taken_makes_the_judge_the_second() -> None:
    reward, _ = build(
        reward={"rules": [{"rule": "words", "max": 2, "name": "judge"}], "weights": {"judge-2": 3.0}}
    )
    assert reward.component_names == ("judge", "judge-2")
    assert reward.weights["judge-2"] == 3.0
    assert reward.panel is reward.components[1]


def test_without_judges_nothing_is_asked_or_relative() -> None:
    reward = build_reward(settings(reward={"judges": [], "rules": [{"rule": "words", "max": 2}]}))
    assert reward.panel is None
    assert not reward.relative


def test_a_judge_of_no_weight_makes_nothing_relative() -> None:
    assert build()[0].relative
    assert not build(judge={"weight": 0.0}, reward={"rules": [{"rule": "words", "max": 2}]})[0].relative


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"reward": {"judges": ["nowhere/x"]}}, "no scripted model `nowhere/x`"),
        (
            {"reward": {"rules": [{"rule": "words", "max": 2}]}, "judge": {"gate": ["word"]}},
            "did you mean `words`?",
        ),
        ({"judge": {"gate": ["judge"]}}, "judge.gate: there is no rule or function `judge`"),
        ({"reward": {"weights": {"judg": 2.0}}}, "did you mean `judge`?"),
        ({"judge": {"weight": -1.0}, "reward": {"combine": "product"}}, "in a product it must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(tables: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(**tables)
    assert words in str(caught.value)


def test_judges_need_connections() -> None:
    with pytest.raises(SettingsError, match=r"reward\.judges: .* no connections"):
        build_reward(settings())
    with pytest.raises(SettingsError, match=r"reward\.quiz: .* no connections"):
        build_reward(settings(reward={"judges": [], "quiz": {"writer": "scripted/judge"}}))


def test_a_quiz_is_a_component_with_the_judges_threshold() -> None:
    reward, _ = build(reward={"quiz": {"writer": "scripted/judge", "weight": 0.5}}, judge={"success": 0.6})
    assert reward.component_names == ("judge", "quiz")
    assert reward.weights == {"judge": 1.0, "quiz": 0.5}
    assert reward.thresholds == {"judge": 0.6, "quiz": 0.6}


def test_success_has_the_judges_own_threshold() -> None:
    reward, _ = build(by_length, polite, judge={"success": 0.6}, reward={"success": 1.0})
    scores = score(reward, "please", "plead!", "pleas")
    assert [reward.success(s) for s in scores] == [True, False, False]
    reward, _ = build(by_length, polite, judge={"success": 0.7})
    assert not reward.success(score(reward, "please", "a")[0])


def test_what_fails_the_gate_is_not_shown_and_costs_no_call() -> None:
    reward, client = build(by_length, polite, judge={"gate": ["polite"]})
    scores = score(reward, "please", "go away", "please do", "go")
    assert [s.breakdown["judge"] for s in scores] == [0.6, 0.0, 0.9, 0.0]
    assert [s.status for s in scores] == ["scored", "invalid", "scored", "invalid"]
    assert scores[1].explanation == "polite: 0\njudge: invalid: not judged: it fails polite"
    assert len(client.requests) == 1
    assert "go away" not in client.requests[0].messages[1]["content"]
    assert [reward.success(s) for s in scores] == [False, False, True, False]


def test_one_survivor_is_the_best_of_its_group_without_a_call() -> None:
    reward, client = build(by_length, polite, judge={"gate": ["polite"]})
    scores = score(reward, "go", "please", "please")
    assert [s.breakdown["judge"] for s in scores] == [0.0, 1.0, 1.0]
    assert scores[1].explanation.endswith("judge: not judged: no other answer passes the gate")
    assert [s.breakdown["judge"] for s in score(reward, "go", "away")] == [0.0, 0.0]
    assert [s.breakdown["judge"] for s in score(reward, "please", "please")] == [0.5, 0.5]  # none failed
    assert client.requests == []


def test_one_survivor_is_judged_where_judging_is_absolute() -> None:
    reward, client = build(
        lambda request: '{"explanation": "so", "score": 10}',
        polite,
        judge={"gate": ["polite"], "kind": "absolute"},
    )
    assert [s.breakdown["judge"] for s in score(reward, "go", "please")] == [0.0, 1.0]
    assert len(client.requests) == 1


def test_a_gate_that_could_not_be_scored_makes_the_judges_score_missing() -> None:
    def broken(completion: str) -> float:
        if completion == "go":
            raise ValueError("oh")
        return 1.0

    reward, client = build(by_length, broken, judge={"gate": ["broken"]})
    scores = score(reward, "aa", "go", "aaaa")
    assert [s.status for s in scores] == ["scored", "missing", "scored"]
    assert "judge: missing: not judged: broken could not be scored" in scores[1].explanation
    assert scores[2].breakdown["judge"] == 0.4
    assert [s.breakdown["judge"] for s in (score(reward, "aa", "go"))[:1]] == [0.5]  # nothing to compare with
    assert len(client.requests) == 1


def test_every_gate_must_be_passed_in_full() -> None:
    reward, _ = build(
        by_length,
        polite,
        reward={"rules": [{"rule": "words", "max": 1}]},
        judge={"gate": ["polite", "words"]},
    )
    scores = score(reward, "please", "please do", "go away", "pleased")
    assert [s.breakdown["judge"] for s in scores] == [0.6, 0.0, 0.0, 0.7]
    assert scores[2].explanation.endswith("it fails polite, words")


def test_almost_passing_is_failing() -> None:
    def almost(completion: str) -> float:
        return 1.0 if completion.startswith("a") else 0.99

    reward, _ = build(by_length, almost, judge={"gate": ["almost"]})
    assert [s.breakdown["judge"] for s in score(reward, "aa", "b", "aaaa")] == [0.2, 0.0, 0.4]


def test_the_smallest_agreement_of_the_components_counts() -> None:
    @dataclass(frozen=True)
    class Agreeing:
        name: str
        agreement: float | None

        def check_prompt(self, prompt: Prompt) -> None: ...

        async def score_group(self, prompt: Prompt, trajectories: Any) -> list[Score]:
            return [Score(value=1.0, agreement=self.agreement) for _ in trajectories]

    components = (Agreeing("a", 0.5), Agreeing("b", -0.5), Agreeing("c", None))
    reward = CombinedReward(components=components, weights={"a": 1.0, "b": 1.0, "c": 1.0})
    assert score(reward, "x")[0].agreement == -0.5


def test_agreement_goes_into_every_score_of_the_group() -> None:
    def upside_down(request: Request) -> str:
        reply = json.loads(by_length(request))
        for entry in reply["scores"]:
            entry["score"] = 1 - entry["score"]
        return json.dumps(reply)

    reward, _ = build(
        upside_down,
        polite,
        reward={"judges": ["scripted/judge", "scripted/other"]},
        judge={"gate": ["polite"]},
    )
    assert [s.agreement for s in score(reward, "please", "please do", "go")] == [-1.0, -1.0, -1.0]
    assert [s.agreement for s in score(build()[0], "a", "bb")] == [None, None]


def test_unusable_replies_make_scores_missing() -> None:
    reward, _ = build(lambda request: "I would rather not.", polite)
    scores = score(reward, "please", "no")
    assert [(s.status, s.value, s.breakdown) for s in scores] == [
        ("missing", None, {"polite": 1.0}),
        ("missing", None, {"polite": 0.0}),
    ]
    assert "judge: missing: scripted/judge: " in scores[0].explanation


@pytest.mark.parametrize("error", [EndpointDown("no answer"), GuardStop("budget", "spent", "raise it")])
def test_what_stops_a_run_goes_through_the_reward(error: Exception) -> None:
    reward, _ = build(lambda request: error, polite)
    with pytest.raises(type(error)):
        score(reward, "a", "b")


def test_a_defect_of_a_client_is_missing_with_its_traceback() -> None:
    reward, _ = build(lambda request: ZeroDivisionError("oh"), polite)
    assert "ZeroDivisionError: oh" in score(reward, "a", "b")[0].explanation
