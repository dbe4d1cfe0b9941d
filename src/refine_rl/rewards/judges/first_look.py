"""Whoever scores is asked once, before a model is loaded and anything dear is paid for.

Each judge is shown two fixed answers, bad ones on purpose that need no model (anchors.py); a quiz reads one.
What they think of them does not matter here: only whether they answer, and with something that can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.llm.background import all_of
from refine_rl.llm.client import Client
from refine_rl.rewards.base import Reward, untokenized
from refine_rl.rewards.judges.anchors import KINDS
from refine_rl.rewards.judges.panel import Panel, make_case
from refine_rl.types import Prompt, Trajectory

FIXED = ("off the topic", "order to the judge")
"""The kinds of bad answers that are shown."""

QUIZZED = 3
"""Prompts whose sources a quiz is tried on at most, until one can be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What came of asking a model in one role, the setting that names it. `failure` says why nothing of it
    could be used, "" where something could.

    >>> Looked(role="reward.judges", model="mine/judge", failure="").failure
    ''
    """

    role: str
    model: str
    failure: str


async def look_at_judges(panels: Mapping[str, Panel], prompt: Prompt) -> list[Looked]:
    """Every judge of the panels, which stand by the setting that names them, asked about the fixed answers to
    `prompt`. What stops a run (a refused key, a dead endpoint, the budget) is let through."""
    asked: dict[tuple[str, str], tuple[Panel, Client]] = {}
    for role, panel in panels.items():
        for client in panel.judges:
            asked.setdefault((role, client.model), (panel, client))
        if panel.larger is not None:
            asked.setdefault(("judge.larger", panel.larger.model), (panel, panel.larger))
    failures = await all_of(_failure(panel, client, prompt) for panel, client in asked.values())
    return [
        Looked(role=role, model=model, failure=failure)
        for (role, model), failure in zip(asked, failures, strict=True)
    ]


async def look_at_quiz(quiz: Reward, prompts: Sequence[Prompt]) -> list[Looked]:
    """The quiz tried on the sources of the prompts, until one can be used; its questions are kept, so that
    they cost nothing more later. Nothing where there is no prompt."""
    failure = ""
    for prompt in prompts[:QUIZZED]:
        (score,) = await quiz.score_group(prompt, _fixed_answers(prompt)[:1])
        if score.value is not None:
            return [Looked(role="reward.quiz", model="writer and reader", failure="")]
        failure = failure or score.explanation
    return [Looked(role="reward.quiz", model="writer and reader", failure=failure)] if prompts else []


def hopeless(looked: Sequence[Looked]) -> list[Looked]:
    """Those of the roles in which nobody can be used.

    >>> hopeless([Looked(role="a", model="x", failure="cut"), Looked(role="a", model="y", failure="")])
    []
    """
    alive = {one.role for one in looked if not one.failure}
    return [one for one in looked if one.role not in alive]


async def _failure(panel: Panel, client: Client, prompt: Prompt) -> str:
    case, _ = make_case(prompt, _fixed_answers(prompt))
    verdict = await panel.asking_for("anchor").judging.look(client, case, look=0)
    if any(value is not None for value in verdict.values):
        return ""
    return verdict.reasons[0]


def _fixed_answers(prompt: Prompt) -> list[Trajectory]:
    return untokenized(prompt, (KINDS[kind](prompt) for kind in FIXED))
