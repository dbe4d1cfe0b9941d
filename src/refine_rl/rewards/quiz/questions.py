"""A quiz's questions, written from a source text by an LLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from refine_rl.llm.client import Client, Request, Schema
from refine_rl.llm.schemas import listed
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.text.words import fold

T = TypeVar("T")
TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with its right answer and the wrong ones; all of them differ.

    >>> Question(text="Who came?", right="Ann", wrong=("Ben", "Cleo")).options
    ('Ann', 'Ben', 'Cleo')
    """

    text: str
    right: str
    wrong: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        return (self.right, *self.wrong)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How an LLM is asked."""

    client: Client
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 8192
    corrections: int = 2

    async def ask(
        self, instructions: str, shown: str, schema: Schema, read: Callable[[Any], T], *, about: str
    ) -> T:
        """What `read` makes of the reply to one request. Raises CallFailed."""
        request = Request(
            messages=({"role": "system", "content": instructions}, {"role": "user", "content": shown}),
            purpose="quiz",
            about=about,
            variation=f"seed {self.seed}",
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            schema=schema,
        )
        return await ask(self.client, request, read, corrections=self.corrections)


async def write_questions(
    writer: Asking, source: str, *, task: str, count: int, options: int, about: str = ""
) -> tuple[Question, ...]:
    """Up to `count` questions about `source`, each with `options` options. Raises CallFailed."""
    values = {"task": task, "questions": count, "wrong": options - 1}
    return await writer.ask(
        fill(load_text(TEXTS, "quiz_writer.md"), values),
        f"<source>\n{fenced_json([{'text': source}])}\n</source>",
        _WRITTEN,
        partial(read_questions, count=count, options=options),
        about=about,
    )


def read_questions(reply: object, *, count: int, options: int) -> tuple[Question, ...]:
    """The usable questions of a parsed reply, at most `count`; raises Unusable where there is none.

    Left out are questions that come again, that have too few wrong answers, or of whose answers two are
    the same whatever their case. Wrong answers too many are cut off.

    >>> read_questions({"questions": [{"question": "Who?", "right": "Ann", "wrong": ["Ben"]}]},
    ...                count=5, options=2)
    (Question(text='Who?', right='Ann', wrong=('Ben',)),)
    """
    entries = reply.get("questions") if isinstance(reply, Mapping) else None
    if not isinstance(entries, list):
        raise Unusable('The reply must be an object with a list "questions".')
    found: dict[str, Question] = {}
    problems = [] if entries else ["The list is empty."]
    for number, entry in enumerate(entries, start=1):
        try:
            question = _question(entry, options)
        except Unusable as wrong:
            problems.append(f"Question {number}: {wrong}")
        else:
            found.setdefault(fold(question.text), question)
    if not found:
        raise Unusable(f"No question can be used. {' '.join(problems[:5])}")
    return tuple(found.values())[:count]


def _question(entry: object, options: int) -> Question:
    if not isinstance(entry, Mapping):
        raise Unusable('it must be an object with "question", "right" and "wrong".')
    text, right, wrong = _line(entry.get("question")), _line(entry.get("right")), entry.get("wrong")
    if not text or not right:
        raise Unusable('"question" and "right" must be texts that are not empty.')
    others = [_line(option) for option in wrong] if isinstance(wrong, list) else []
    if len(others) < options - 1 or not all(others):
        raise Unusable(f'"wrong" must be a list of {options - 1} texts that are not empty.')
    if len({fold(option).strip(" .") for option in (right, *others)}) < len(others) + 1:
        raise Unusable("two of its answers are the same; exactly one must be right, and all must differ.")
    return Question(text=text, right=right, wrong=tuple(others[: options - 1]))


def _line(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())


_TEXT = {"type": "string"}
_WRITTEN = listed(
    "questions", {"question": _TEXT, "right": _TEXT, "wrong": {"type": "array", "items": _TEXT}}
)
