"""Judges that name the first wrong step of an answer, a call an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from refine_rl.llm.client import Client
from refine_rl.llm.schemas import explained
from refine_rl.llm.structured import Unusable
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.judging import EachAlone, explanation_of, in_context
from refine_rl.rewards.judges.looks import Case
from refine_rl.rewards.steps.steps import right_steps, steps_of
from refine_rl.rewards.text.patterns import TooSlow
from refine_rl.types import Message

_SCHEMA = explained("first_wrong_step", {"first_wrong": {"type": "integer"}})


@dataclass(frozen=True, kw_only=True)
class StepJudging(EachAlone):
    """The share of an answer's steps before the first wrong one. An answer without a step gets 0 without a
    call. There is no rubric: a step is right or wrong."""

    text, key = "steps.md", "first_wrong"

    split: str
    rubric: str = ""
    purpose: str = "steps"

    async def grade(
        self, client: Client, case: Case, answer: tuple[Message, ...], look: int
    ) -> tuple[float | None, str]:
        try:
            steps = steps_of(answer[-1]["content"], self.split) if answer else []
        except TooSlow as error:
            return None, str(error)
        if not steps:
            return 0.0, "no step"
        numbered = [{"step": number, "text": text} for number, text in enumerate(steps, start=1)]
        shown = f"<steps>\n{fenced_json(numbered)}\n</steps>"
        read = partial(read_first_wrong, steps=len(steps))
        # Also an empty context is shown: kept replies are found by the words of the request.
        context = in_context((*case.context, *answer[:-1]))
        first, why = await self.ask(client, case, look, shown, read, _SCHEMA, context=context)
        share = right_steps(first - 1 if first else len(steps), len(steps), why=why if first else "")
        return share.value, share.explanation


def read_first_wrong(reply: object, *, steps: int) -> tuple[int, str]:
    """(first wrong step, explanation) of a parsed reply; 0: none. Raises Unusable with what is wrong.

    >>> read_first_wrong({"explanation": "3 + 4 is 7.", "first_wrong": 2}, steps=3)
    (2, '3 + 4 is 7.')
    """
    if not isinstance(reply, Mapping) or "first_wrong" not in reply:
        raise Unusable('The reply must be an object with "explanation" and "first_wrong".')
    first = reply["first_wrong"]
    if isinstance(first, str) and first.strip().isdecimal():
        first = int(first)
    if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first <= steps:
        raise Unusable(
            f'"first_wrong" must be the number of a step, 1 to {steps}, or 0 where every step is right.'
        )
    return first, explanation_of(reply)
