"""Further looks: no two are the same request, and what may not change does not."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.llm.client import Request
from refine_rl.llm.scripted import Scripted
from refine_rl.rewards.judges.absolute import Absolute
from refine_rl.rewards.judges.looks import Case
from refine_rl.rewards.judges.pairwise import Pairwise
from refine_rl.rewards.judges.panel import Panel
from refine_rl.rewards.judges.ruler import Ruler
from refine_rl.rewards.judges.views import view_of
from refine_rl.rewards.steps.judge import StepJudging

RUBRIC = (
    "Judge as an editor would.\n- Brief.\n  One sentence at most.\n- Kind.\n- True.\n\n1. first\n2. second"
)
PROMPT = prompt()


def reply(request: Request) -> str:
    """A fixed word of every kind of judge."""
    text = request.messages[-1]["content"]
    ids = re.findall(r'<trajectory id="([^"]*)">', text)
    scores = [{"trajectory_id": i, "explanation": "", "score": 0.5} for i in ids]
    return json.dumps({"scores": scores} if ids else {"score": 5, "winner": "tie", "first_wrong": 0})


def judging(kind: str, **changes: Any) -> Any:
    if kind == "steps":
        return StepJudging(task="Be polite.", split=r"\n+", **changes)
    made = {"absolute": Absolute, "pairwise": Pairwise, "ruler": Ruler}[kind]
    return made(task="Be polite.", rubric=RUBRIC, **changes)


def case(*answers: str) -> Case:
    return Case(
        about="p1",
        context=PROMPT.messages,
        answers=tuple(({"role": "assistant", "content": text},) for text in answers),
    )


def requests(kind: str, looks: int, *answers: str, seed: int = 0) -> list[Request]:
    client = Scripted(reply)
    for look in range(looks):
        asyncio.run(judging(kind, seed=seed).look(client, case(*answers), look=look))
    return client.requests


@pytest.mark.parametrize("kind", ["absolute", "pairwise", "ruler", "steps"])
def test_no_two_looks_are_the_same_request(kind: str) -> None:
    seen = [r.messages for seed in (0, 1) for r in requests(kind, 6, "Hello.", "Hi!\nYes.", seed=seed)]
    # The first look of a kind that shows no order follows from the answers alone, whatever the seed.
    alike = {"absolute": 2, "pairwise": 2, "steps": 2}.get(kind, 0)
    assert len({json.dumps(messages) for messages in seen}) == len(seen) - alike


@pytest.mark.parametrize("kind", ["absolute", "pairwise", "ruler", "steps"])
def test_a_look_follows_from_its_number_alone(kind: str) -> None:
    whole = requests(kind, 4, "Hello.", "Hi!\nYes.")
    client = Scripted(reply)
    asyncio.run(judging(kind).look(client, case("Hello.", "Hi!\nYes."), look=3))
    assert [r.messages for r in client.requests] == [r.messages for r in whole[-len(client.requests) :]]


def test_the_first_look_is_laid_out_as_it_stands() -> None:
    (first,) = requests("absolute", 1, "Hello.")
    assert RUBRIC in first.messages[0]["content"]
    assert first.messages[1]["content"] == (
        '<context>\n[{"role": "user", "content": "Say hi."}]\n</context>\n\n'
        '<answer>\n[{"role": "assistant", "content": "Hello."}]\n</answer>'
    )


def test_a_further_look_has_a_sign_and_every_second_one_is_turned_round() -> None:
    texts = [r.messages[1]["content"] for r in requests("absolute", 5, "Hello.")]
    for look, text in enumerate(texts):
        sign = re.match(r"Reading ([a-z2-9]{6}): judge afresh\.\n\n", text)
        assert (sign is not None) == (look > 0)
        assert (text.index("<answer>") < text.index("<context>")) == (look % 2 == 1)
        assert text.count("</answer>") == text.count("<context>") == 1


def test_only_whole_points_of_one_list_change_places() -> None:
    head, tail = "Judge as an editor would.", "\n1. first\n2. second"
    points = ["- Brief.\n  One sentence at most.", "- Kind.", "- True."]
    possible = {"\n".join([head, *order, tail]) for order in itertools.permutations(points)} - {RUBRIC}
    found = {view_of(look, rubric=RUBRIC, seed=0, context="x").rubric for look in range(1, 40)}
    assert found == possible


@pytest.mark.parametrize("rubric", ["Be kind.", "- one point", "1. a\n2. b", ""])
def test_a_rubric_without_an_order_of_its_own_stays(rubric: str) -> None:
    views = [view_of(look, rubric=rubric, seed=0, context="x") for look in range(5)]
    assert {v.rubric for v in views} == {rubric}
    assert len({v.sign for v in views}) == 5


@pytest.mark.parametrize("kind", ["absolute", "pairwise", "steps"])
def test_all_answers_of_a_group_are_seen_alike_in_a_look(kind: str) -> None:
    """Also both orders of a pair: they differ in their order alone."""
    seen = requests(kind, 3, "Hello.", "Hi!", "Yes.")
    each = len(seen) // 3
    for look in range(3):
        ways = {
            (r.messages[0]["content"], r.messages[1]["content"][:30])
            for r in seen[look * each : (look + 1) * each]
        }
        assert len(ways) == 1


def test_a_ruler_shows_every_order_before_one_comes_again() -> None:
    def orders(*answers: str) -> list[tuple[str, ...]]:
        return [
            tuple(re.findall(r'"assistant", "content": "([^"]*)"', r.messages[1]["content"]))
            for r in requests("ruler", 6, *answers)
        ]

    assert set(orders("a", "b", "c")) == set(itertools.permutations("abc"))
    two = orders("a", "b")
    assert [set(two[n : n + 2]) for n in (0, 2, 4)] == [{("a", "b"), ("b", "a")}] * 3


def test_agreement_comes_from_what_each_look_saw() -> None:
    """A judge that goes by the first point alone: a copy of its first look would agree with it in full."""

    def brain(request: Request) -> str:
        point = re.search(r"(?m)^- (\w+)", request.messages[0]["content"])
        assert point
        brief = point[1] == "Brief"
        long = "really" in request.messages[1]["content"]
        return json.dumps({"score": 9 if long != brief else 2})

    panel = Panel(judging=judging("absolute"), judges=(Scripted(brain),), repeats=2)
    scores = scored(panel, PROMPT, "Hi.", "It is really nice.")
    assert [s.agreement for s in scores] == [-1.0, -1.0]


@pytest.mark.parametrize("kind", ["absolute", "pairwise", "ruler"])
def test_judges_of_a_panel_and_a_model_that_is_named_twice_have_looks_of_their_own(kind: str) -> None:
    client = Scripted(reply)
    panel = Panel(judging=judging(kind), judges=(client, client), repeats=2)
    scored(panel, PROMPT, "Hi.", "Hello.")
    assert len({json.dumps(r.messages) for r in client.requests}) == len(client.requests) >= 4
