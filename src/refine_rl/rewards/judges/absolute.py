"""Absolute judging: each answer of a group alone in a request, from 1 to 10.

Values compare across groups, which those of the ruler do not; but a judge that never sees two answers
side by side tells close ones apart less well, and each answer costs a call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refine_rl.llm.client import CallFailed, Client, Request, Schema
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.looks import Case, Verdict, all_of
from refine_rl.rewards.judges.views import view_of
from refine_rl.types import Message

LOWEST, HIGHEST = 1, 10
TEXTS = Path(__file__).parent / "texts"

_SCORE = re.compile(r"[*\s]*([-+]?\d+(?:[.,]\d+)?)\s*(?:(?:/|out of)\s*10(?:[.,]0+)?)?[*.\s]*", re.IGNORECASE)
_SCHEMA = Schema(
    name="grade",
    schema={
        "type": "object",
        "properties": {"explanation": {"type": "string"}, "score": {"type": "number"}},
        "required": ["explanation", "score"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, kw_only=True)
class Absolute:
    """A grade from 1 to 10 for each answer alone; value = (grade - 1) / 9.

    All answers of a case are graded at the same time, a call each; a further look reads them otherwise
    (views.py). An answer whose grade is missing has the value None; the others keep theirs.
    """

    task: str
    rubric: str
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 8192
    corrections: int = 2
    purpose: str = "judge"

    @property
    def relative(self) -> bool:
        return False

    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        """One verdict. What concerns the whole endpoint or the budget is let through."""
        grades = await all_of(self._grade(client, case, answer, look) for answer in case.answers)
        return Verdict(
            values=tuple(value for value, _ in grades), reasons=tuple(reason for _, reason in grades)
        )

    async def _grade(
        self, client: Client, case: Case, answer: tuple[Message, ...], look: int
    ) -> tuple[float | None, str]:
        context = f"<context>\n{fenced_json(case.context)}\n</context>" if case.context else ""
        shown = f"<answer>\n{fenced_json(answer)}\n</answer>"
        view = view_of(look, rubric=self.rubric, seed=self.seed, context=context)
        request = Request(
            messages=(
                {"role": "system", "content": instructions("absolute.md", self.task, view.rubric)},
                {"role": "user", "content": view.laid_out(context, shown)},
            ),
            purpose=self.purpose,
            about=case.about,
            variation=f"seed {self.seed}, look {look}",
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            schema=_SCHEMA,
        )
        try:
            grade, reason = (
                await ask(client, request, read_grade, corrections=self.corrections, key="score")
            ).value
        except CallFailed as error:
            return None, str(error)
        return (grade - LOWEST) / (HIGHEST - LOWEST), reason


def instructions(name: str, task: str, rubric: str) -> str:
    """The text `name` with the task and the rubric in it."""
    goal = f"The goal:\n{task.strip()}" if task.strip() else "The goal is what the context asks for."
    return fill(load_text(TEXTS, name), {"goal": goal, "rubric": rubric})


def read_grade(reply: object) -> tuple[float, str]:
    """(grade, explanation) of a parsed reply; raises Unusable with what is wrong.

    A grade may be written "8" or "8/10". One on another scale, or outside 1 to 10, is not guessed at.

    >>> read_grade({"explanation": "Clear.", "score": "8/10"})
    (8.0, 'Clear.')
    """
    if not isinstance(reply, Mapping):
        raise Unusable('The reply must be an object with "explanation" and "score".')
    if "score" not in reply:
        raise Unusable('The reply has no "score".')
    written = reply["score"]
    found = _SCORE.fullmatch(written) if isinstance(written, str) else None
    if found is not None:
        written = float(found[1].replace(",", "."))
    if isinstance(written, bool) or not isinstance(written, int | float):
        raise Unusable(f"The score is {_short(written)}; it must be a number from {LOWEST} to {HIGHEST}.")
    if not LOWEST <= written <= HIGHEST:
        raise Unusable(f"The score is {_short(written)}, which is not from {LOWEST} to {HIGHEST}.")
    return float(written), explanation_of(reply)


def explanation_of(reply: Mapping[object, object]) -> str:
    """The explanation on one line; "" where there is none: the verdict is usable without."""
    text = reply.get("explanation")
    return " ".join(text.split()) if isinstance(text, str) else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
