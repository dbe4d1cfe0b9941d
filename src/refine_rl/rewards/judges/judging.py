"""What all ways of judging share: how a judge is asked. What it is shown, what is read of its reply and what
value comes of that is each one's own (ruler.py, absolute.py, pairwise.py, steps/judge.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from refine_rl.llm.background import all_of
from refine_rl.llm.client import CallFailed, Client, Request, Schema
from refine_rl.llm.structured import ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.looks import Case, Verdict
from refine_rl.rewards.judges.views import View, view_of
from refine_rl.types import Message

TEXTS = Path(__file__).parent / "texts"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Judge(ABC):
    """A way of judging by an LLM. The request of a look follows from (seed, case, number of the look) alone,
    never from what ran before."""

    task: str
    rubric: str
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 8192
    corrections: int = 2
    purpose: str = "judge"

    relative: ClassVar[bool]
    text: ClassVar[str]
    """The instructions, a file of texts/."""
    key: ClassVar[str]
    """The word of the reply by which the verdict goes."""
    goals: ClassVar[tuple[str, str]] = ("The goal:", "The goal is what the context asks for.")
    """What the instructions call the task, with and without one."""

    @abstractmethod
    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        """One verdict. What concerns the whole endpoint or the budget is let through."""

    def view(self, look: int, context: str) -> View:
        """How look number `look` sees what it judges."""
        return view_of(look, rubric=self.rubric, seed=self.seed, context=context)

    def variation(self, look: int) -> str:
        """What tells the request of this look from another of the same words."""
        return f"seed {self.seed}, look {look}"

    async def ask(
        self,
        client: Client,
        case: Case,
        look: int,
        shown: str,
        read: Callable[[Any], T],
        schema: Schema,
        *,
        context: str | None = None,
        **values: str,
    ) -> T:
        """What `read` makes of the reply to one request: the instructions with the goal, the rubric and
        other `values`; the context (without one, the case's); what is `shown` to be judged. Raises
        CallFailed."""
        if context is None:
            context = in_context(case.context) if case.context else ""
        view = self.view(look, context)
        task, (named, unnamed) = self.task.strip(), self.goals
        goal = f"{named}\n{task}" if task else unnamed
        filled = fill(load_text(TEXTS, self.text), {"goal": goal, "rubric": view.rubric, **values})
        request = Request(
            messages=(
                {"role": "system", "content": filled},
                {"role": "user", "content": view.laid_out(context, shown)},
            ),
            purpose=self.purpose,
            about=case.about,
            variation=self.variation(look),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            schema=schema,
        )
        return await ask(client, request, read, corrections=self.corrections, key=self.key)


class EachAlone(Judge):
    """Each answer of a case in a call of its own, all at the same time. One whose grade cannot be had has the
    value None; the others keep theirs."""

    relative = False

    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        graded = await all_of(self._graded(client, case, answer, look) for answer in case.answers)
        return Verdict.of(graded)

    async def _graded(
        self, client: Client, case: Case, answer: tuple[Message, ...], look: int
    ) -> tuple[float | None, str]:
        try:
            return await self.grade(client, case, answer, look)
        except CallFailed as error:
            return None, str(error)

    @abstractmethod
    async def grade(
        self, client: Client, case: Case, answer: tuple[Message, ...], look: int
    ) -> tuple[float | None, str]:
        """The value of one answer, and the reason for it. Raises CallFailed."""


def in_context(messages: Sequence[Message]) -> str:
    """What was asked, between its tags."""
    return f"<context>\n{fenced_json(messages)}\n</context>"


def explanation_of(reply: Mapping[str, object]) -> str:
    """The explanation on one line; "" where there is none: the verdict is usable without."""
    text = reply.get("explanation")
    return " ".join(text.split()) if isinstance(text, str) else ""
