"""Judges that name the first wrong step of an answer, a call an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from refine_rl.llm.client import CallFailed, Client, Request, Schema
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.rewards.judges.absolute import TEXTS, explanation_of
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.looks import Case, Verdict, all_of
from refine_rl.rewards.judges.views import view_of
from refine_rl.rewards.steps.shares import right_steps, steps_of
from refine_rl.rewards.text.patterns import TooSlow
from refine_rl.types import Message

_SCHEMA = Schema(
    name="first_wrong_step",
    schema={
        "type": "object",
        "properties": {"explanation": {"type": "string"}, "first_wrong": {"type": "integer"}},
        "required": ["explanation", "first_wrong"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, kw_only=True)
class StepJudging:
    """The share of an answer's steps before the first wrong one. An answer without a step gets 0 without a
    call; one whose grade cannot be had has the value None, the others keep theirs."""

    task: str
    split: str
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 8192
    corrections: int = 2
    purpose: str = "steps"

    @property
    def relative(self) -> bool:
        return False

    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        """One verdict. What concerns the whole endpoint or the budget is let through."""
        grades = await all_of(self._grade(client, case, answer, look) for answer in case.answers)
        return Verdict(values=tuple(v for v, _ in grades), reasons=tuple(why for _, why in grades))

    async def _grade(
        self, client: Client, case: Case, answer: tuple[Message, ...], look: int
    ) -> tuple[float | None, str]:
        try:
            steps = steps_of(answer[-1]["content"], self.split) if answer else []
        except TooSlow as error:
            return None, str(error)
        if not steps:
            return 0.0, "no step"
        goal = (
            f"The goal:\n{self.task.strip()}"
            if self.task.strip()
            else "The goal is what the context asks for."
        )
        context = f"<context>\n{fenced_json((*case.context, *answer[:-1]))}\n</context>"
        numbered = fenced_json([{"step": number, "text": text} for number, text in enumerate(steps, start=1)])
        shown = f"<steps>\n{numbered}\n</steps>"
        view = view_of(look, rubric="", seed=self.seed, context=context)
        request = Request(
            messages=(
                {"role": "system", "content": fill(load_text(TEXTS, "steps.md"), {"goal": goal})},
                {"role": "user", "content": view.laid_out(context, shown)},
            ),
            purpose=self.purpose,
            about=case.about,
            variation=f"seed {self.seed}, look {look}",
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            schema=_SCHEMA,
        )
        read = partial(read_first_wrong, steps=len(steps))
        try:
            first, why = (
                await ask(client, request, read, corrections=self.corrections, key="first_wrong")
            ).value
        except CallFailed as error:
            return None, str(error)
        grade = right_steps(len(steps) if first == 0 else first - 1, len(steps), why=why if first else "")
        return grade.value, grade.explanation


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
