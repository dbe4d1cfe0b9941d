"""A quiz's questions, written from a source text by an LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refine_rl.llm.client import Client, Request
from refine_rl.llm.schemas import listed
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.text.words import fold

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


async def write_questions(
    writer: Asking, source: str, *, task: str, count: int, options: int, about: str = ""
) -> tuple[Question, ...]:
    """Up to `count` questions about `source`, each with `options` options. Raises CallFailed."""
    text = load_text(TEXTS, "quiz_writer.md")
    values = {"task": task, "questions": count, "wrong": options - 1}
    request = Request(
        messages=(
            {"role": "system", "content": fill(text, values)},
            {"role": "user", "content": f"<source>\n{fenced_json([{'text': source}])}\n</source>"},
        ),
        purpose="quiz",
        about=about,
        variation=f"seed {writer.seed}",
        temperature=writer.temperature,
        max_tokens=writer.max_tokens,
        schema=_WRITTEN,
    )
    return await ask(
        writer.client,
        request,
        lambda reply: read_questions(reply, count=count, options=options),
        corrections=writer.corrections,
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
