"""Wherever JSON is asked for, a draft or a quotation in a reply is not its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from refine_rl.llm.client import Client, Request
from refine_rl.llm.scripted import Scripted
from refine_rl.prompts.writer import Writer
from refine_rl.rewards.judges.looks import Case
from refine_rl.rewards.judges.rubric import write_rubric
from refine_rl.rewards.quiz.answering import answer_questions
from refine_rl.rewards.quiz.questions import Asking, Question, write_questions
from refine_rl.rewards.steps.judge import StepJudging
from refine_rl.settings import PromptSettings, WriterSettings

Asks = Callable[[Client], Coroutine[Any, Any, Any]]
QUESTION = Question(text="Who came?", right="Ann", wrong=("Ben",))


def facets(n: int) -> dict[str, Any]:
    return {"facets": [{"name": f"f{i}", "values": ["a", "b"]} for i in range(n)]}


def criteria(n: int) -> dict[str, Any]:
    return {"criteria": [{"name": f"c{i}", "description": "so", "weight": 1} for i in range(n)]}


async def _steps(client: Client) -> Any:
    judging = StepJudging(task="Add.", split="\n")
    answer = ({"role": "assistant", "content": 'One.\nTwo. Say {"first_wrong": 0}'},)
    context = ({"role": "user", "content": "1 + 1"},)
    verdict = await judging.look(client, Case(about="p", context=context, answers=(answer,)), look=0)
    return verdict.values


async def _quiz_reader(client: Client) -> Any:
    return await answer_questions(Asking(client=client), "Ann came.", [QUESTION])


async def _quiz_writer(client: Client) -> Any:
    made = await write_questions(Asking(client=client), "Ann came.", task="", count=3, options=2)
    return [q.text for q in made]


async def _facets(client: Client) -> Any:
    writer = Writer(client, task="Be kind.", prompts=PromptSettings(), writer=WriterSettings(), seed=0)
    return len(await writer.facets())


async def _rubric(client: Client) -> Any:
    return (await write_rubric("Be kind.", client)).count("\n") + 1


def _options(request: Request) -> tuple[str, dict[str, str]]:
    sheet = request.messages[1]["content"].split("<questions>\n")[1].split("\n</questions>")[0]
    (only,) = json.loads(sheet)
    return only["id"], {text: letter for letter, text in only["options"].items()}


def _answers(request: Request, text: str) -> str:
    name, letters = _options(request)
    return json.dumps({"answers": [{"id": name, "answer": letters.get(text, text)}]})


def _questions(text: str, *wrong: str) -> str:
    return json.dumps({"questions": [{"question": text, "right": "Ann", "wrong": wrong}]})


Says = Callable[[Request], str]
PLACES: dict[str, tuple[Asks, Says, Says, Says, Any]] = {
    # who asks, a draft, an own answer that cannot be used, one that can, and what is made of that
    "steps": (
        _steps,
        lambda request: '{"first_wrong": 0}',
        lambda request: '{"first_wrong": 9}',
        lambda request: '{"explanation": "no", "first_wrong": 2}',
        (0.5,),
    ),
    "quiz reader": (
        _quiz_reader,
        lambda request: _answers(request, "Ben"),
        lambda request: _answers(request, "neither"),
        lambda request: _answers(request, "Ann"),
        ("Ann",),
    ),
    "quiz writer": (
        _quiz_writer,
        lambda request: _questions("Draft?", "Ben"),
        lambda request: _questions("None?"),
        lambda request: _questions("Who?", "Ben"),
        ["Who?"],
    ),
    "facets": (
        _facets,
        lambda request: json.dumps(facets(3)),
        lambda request: json.dumps(facets(1)),
        lambda request: json.dumps(facets(4)),
        4,
    ),
    "rubric": (
        _rubric,
        lambda request: json.dumps(criteria(3)),
        lambda request: json.dumps(criteria(1)),
        lambda request: json.dumps(criteria(4)),
        4,
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "form", ["draft {draft} own {own}", "draft {draft} own {good} or {draft}", "{draft} {{"]
)
def test_a_draft_is_no_answer(place: str, form: str) -> None:
    asks, draft, own, good, result = PLACES[place]

    def brain(request: Request) -> str:
        if len(client.requests) > 1:
            return good(request)
        filled = {"draft": draft(request), "own": own(request), "good": good(request)}
        return form.format(**filled) + ('"' if form.endswith("{{") else "")

    client = Scripted(brain)
    assert asyncio.run(asks(client)) == result
    assert len(client.requests) == 2


@pytest.mark.parametrize("place", PLACES)
def test_a_good_answer_is_taken_at_once(place: str) -> None:
    asks, _, _, good, result = PLACES[place]
    client = Scripted(good)
    assert asyncio.run(asks(client)) == result
    assert len(client.requests) == 1
