"""What all ways of judging share: the words of a request, by which kept replies are found, and lost calls."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from refine_rl.llm.client import CallFailed, Reply, Request
from refine_rl.llm.scripted import Scripted
from refine_rl.rewards.judges.absolute import Absolute
from refine_rl.rewards.judges.judging import Judge
from refine_rl.rewards.judges.looks import Case, Verdict
from refine_rl.rewards.judges.pairwise import Pairwise
from refine_rl.rewards.judges.ruler import Ruler
from refine_rl.rewards.steps.judge import StepJudging
from refine_rl.types import Message

ASKED: Message = {"role": "user", "content": "Add 2 and 3 and 4."}
CONTEXT = '<context>\n[{"role": "user", "content": "Add 2 and 3 and 4."}]\n</context>'
ONE = '[{"role": "assistant", "content": "2 + 3 = 5\\n5 + 4 = 8"}]'
OTHER = '[{"role": "assistant", "content": "9"}]'
ANSWERS: tuple[tuple[Message, ...], ...] = (
    ({"role": "assistant", "content": "2 + 3 = 5\n5 + 4 = 8"},),
    ({"role": "assistant", "content": "9"},),
)


def requests_of(judge: Judge, *, asked: bool = True, look: int = 0) -> tuple[list[Request], Verdict]:
    """What is asked, and what becomes of it where no call can be had."""

    def lost(request: Request) -> Reply:
        raise CallFailed("no reply")

    client = Scripted(lost)
    case = Case(about="p1", context=(ASKED,) if asked else (), answers=ANSWERS)
    verdict = asyncio.run(judge.look(client, case, look=look))
    return client.requests, verdict


@pytest.mark.parametrize(
    ("judge", "system", "users", "variation", "purpose"),
    [
        (
            Ruler(task=" Be right.\n", rubric="Be brief.", seed=3, max_tokens=99),
            "\n\nThe goal of all of them:\nBe right.\n\nGrading standards:\nBe brief.\n\n",
            [
                f'{CONTEXT}\n\nTrajectories:\n\n<trajectory id="FIRST">\n{ONE}\n</trajectory>\n\n'
                f'<trajectory id="SECOND">\n{OTHER}\n</trajectory>'
            ],
            "look 0",
            "judge",
        ),
        (
            Absolute(task=" Be right.\n", rubric="Be brief.", seed=3, max_tokens=99),
            "\n\nThe goal:\nBe right.\n\nGrading standards:\nBe brief.\n\n",
            [f"{CONTEXT}\n\n<answer>\n{body}\n</answer>" for body in (ONE, OTHER)],
            "seed 3, look 0",
            "judge",
        ),
        (
            Pairwise(task=" Be right.\n", rubric="Be brief.", seed=3, max_tokens=99, purpose="anchor"),
            "\n\nThe goal:\nBe right.\n\nGrading standards:\nBe brief.\n\n",
            [
                f'{CONTEXT}\n\n<answer name="A">\n{a}\n</answer>\n\n<answer name="B">\n{b}\n</answer>'
                for a, b in ((ONE, OTHER), (OTHER, ONE))
            ],
            "seed 3, look 0",
            "anchor",
        ),
        (
            StepJudging(task=" Be right.\n", split=r"\n", seed=3, max_tokens=99),
            "\n\nThe goal:\nBe right.\n\n",
            [
                f'{CONTEXT}\n\n<steps>\n[{{"step": 1, "text": "2 + 3 = 5"}}, {{"step": 2, "text": '
                '"5 + 4 = 8"}]\n</steps>',
                f'{CONTEXT}\n\n<steps>\n[{{"step": 1, "text": "9"}}]\n</steps>',
            ],
            "seed 3, look 0",
            "steps",
        ),
    ],
    ids=["ruler", "absolute", "pairwise", "steps"],
)
def test_the_words_of_a_request(
    judge: Judge, system: str, users: list[str], variation: str, purpose: str
) -> None:
    requests, verdict = requests_of(judge)
    for request, user in zip(requests, users, strict=True):
        said, shown = request.messages
        assert system in said["content"]
        assert _without_ids(shown["content"]) == user
        assert (request.about, request.variation, request.purpose) == ("p1", variation, purpose)
        assert (request.temperature, request.max_tokens) == (0.0, 99)
    assert verdict == Verdict(values=(None, None), reasons=("no reply", "no reply"))


def _without_ids(text: str) -> str:
    """With a ruler's opaque ids named by their place."""
    places = iter(("FIRST", "SECOND"))
    return re.sub(r'(?<=<trajectory id=")\w+', lambda _: next(places), text)


@pytest.mark.parametrize(
    ("judge", "begins"),
    [
        (Ruler(task="", rubric=""), "Trajectories:\n\n<trajectory "),
        (Absolute(task="", rubric=""), "<answer>\n["),
        (Pairwise(task="", rubric=""), '<answer name="A">\n['),
        (StepJudging(task="", split=r"\n"), "<context>\n[]\n</context>\n\n<steps>\n["),
    ],
)
def test_nothing_that_all_share_is_left_out_but_of_steps(judge: Judge, begins: str) -> None:
    requests, _ = requests_of(judge, asked=False)
    assert all(request.messages[1]["content"].startswith(begins) for request in requests)
    assert all("what the context asks for." in request.messages[0]["content"] for request in requests)


@pytest.mark.parametrize(
    "make",
    [Absolute, Pairwise, lambda **own: StepJudging(split=r"\n", **own)],
    ids=["absolute", "pairs", "steps"],
)
def test_a_further_look_reads_otherwise(make: Any) -> None:
    rubric = "- Be brief.\n- Be kind."
    first, second = (requests_of(make(task="t", rubric=rubric), look=look)[0][0] for look in (0, 1))
    assert second.variation == "seed 0, look 1"
    material = first.messages[1]["content"].removeprefix(f"{CONTEXT}\n\n")
    begin = second.messages[1]["content"].partition("\n\n")[0]
    assert begin.startswith("Reading ")
    assert second.messages[1]["content"] == f"{begin}\n\n{material}\n\n{CONTEXT}"
