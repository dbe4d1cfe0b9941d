"""Duels for a win rate: a win in both orders alone, what a judge of places does, and failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

import make
from refine_rl.errors import SettingsError
from refine_rl.llm.client import CallFailed, EndpointDown, Request
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.rewards.build import build_scorers, panels
from refine_rl.rewards.judges.build import make_referee
from refine_rl.rewards.judges.duels import Duel
from refine_rl.settings import JudgeSettings, Settings

PROMPT = make.prompt(7, "Name a river.")
Decide = Callable[[str, str], str]


def shown(request: Request) -> tuple[str, str]:
    """The two answers, A and B, as the judge reads them."""
    parts = request.messages[-1]["content"].split('<answer name="')[1:]
    a, b = (json.loads(part.split("\n</answer>")[0].split('">\n')[1])[0]["content"] for part in parts)
    return a, b


def judge(decide: Decide, model: str = "scripted/judge") -> Scripted:
    def reply(request: Request) -> str:
        return json.dumps({"explanation": "why", "winner": decide(*shown(request))})

    return Scripted(reply, model=model)


def duel(one: str, other: str, *judges: Scripted) -> Duel:
    referee = make_referee(JudgeSettings(), judges, task="Answer with a river.", rubric="- Rivers count.")
    ours, theirs = make.attempts(PROMPT, one, other)
    return asyncio.run(referee.duel(PROMPT, ours, theirs))


def longer(a: str, b: str) -> str:
    return "A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie"


def test_a_win_needs_both_orders() -> None:
    client = judge(longer)
    assert duel("the Nile", "Po", client) == Duel(points=1.0, decided=2, first=1, pairs=1)
    assert duel("Po", "the Nile", client) == Duel(points=0.0, decided=2, first=1, pairs=1)
    assert duel("Po", "Ob", client) == Duel(points=0.5, pairs=1)
    assert [shown(request) for request in client.requests[:2]] == [("the Nile", "Po"), ("Po", "the Nile")]
    assert {request.purpose for request in client.requests} == {"win rate"}
    assert {request.about for request in client.requests} == {"p7"}


def test_a_judge_of_places_leaves_ties_and_shows() -> None:
    assert duel("Po", "Nile", judge(lambda a, b: "A")) == Duel(
        points=0.5, decided=2, first=2, pairs=1, turned=1
    )
    assert duel("Po", "Nile", judge(lambda a, b: "B")) == Duel(
        points=0.5, decided=2, first=0, pairs=1, turned=1
    )
    # A verdict in one order and a tie in the other is no win, and no turn either.
    once = judge(lambda a, b: "A" if a == "Po" else "tie")
    assert duel("Po", "Nile", once) == Duel(points=0.5, decided=1, first=1, pairs=1)


def test_equal_answers_tie_without_a_call() -> None:
    client = judge(longer)
    assert duel("Po", "Po", client) == Duel(points=0.5)
    assert client.requests == []


def test_several_judges_count_alike_and_a_failed_one_not() -> None:
    shorter = judge(lambda a, b: longer(b, a))
    assert duel("the Nile", "Po", judge(longer), shorter).points == 0.5
    failing = Scripted(lambda request: CallFailed("cut"), model="scripted/gone")
    found = duel("the Nile", "Po", judge(longer), failing)
    assert (found.points, found.pairs) == (1.0, 1)
    assert found.failure == "scripted/gone: cut"
    assert duel("the Nile", "Po", failing) == Duel(points=None, failure="scripted/gone: cut")
    with pytest.raises(EndpointDown):
        duel("the Nile", "Po", Scripted(lambda request: EndpointDown("gone")))


def test_half_a_duel_is_none() -> None:
    def once(request: Request) -> str | CallFailed:
        return CallFailed("cut") if shown(request)[0] == "Po" else '{"explanation": "", "winner": "A"}'

    assert duel("the Nile", "Po", Scripted(once)).points is None


# -- who is asked ---------------------------------------------------------------------------------


def settings(**tables: object) -> Settings:
    rules = {"rules": [{"rule": "words", "max": 3}]}
    return Settings.model_validate({"task": "Be brief.", "reward": rules, **tables})


def test_the_judge_of_the_comparison_decides_and_is_looked_at_first() -> None:
    connections = ScriptedConnections({"a/b": judge(longer, "a/b"), "c/d": judge(longer, "c/d")})
    alone = build_scorers(
        settings(evaluate={"metrics": ["win_rate"], "judge": "a/b"}), connections=connections
    )
    assert alone.referee is not None
    assert alone.referee.models == "a/b"
    assert alone.exam is alone.validation  # the reward's rules score the exam, nobody judges it
    assert {role: [c.model for c in p.judges] for role, p in panels(alone).items()} == {
        "evaluate.judge": ["a/b"]
    }
    both = build_scorers(
        settings(reward={"judges": ["a/b", "c/d"]}, evaluate={"metrics": ["win_rate"]}),
        connections=connections,
    )
    assert both.referee is not None
    assert both.referee.models == "a/b, c/d"
    assert panels(both).keys() == {"reward.judges"}
    assert build_scorers(settings()).referee is None
    with pytest.raises(SettingsError, match="no connections to endpoints"):
        build_scorers(settings(evaluate={"metrics": ["win_rate"], "judge": "a/b"}))
