"""A quiz's questions, answered from a text by an LLM that has nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

from refine_rl.llm.client import Schema
from refine_rl.llm.schemas import listed
from refine_rl.llm.structured import Unusable
from refine_rl.llm.texts import load_text
from refine_rl.randomness import generator
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.views import all_different, opaque
from refine_rl.rewards.quiz.questions import TEXTS, Asking, Question
from refine_rl.rewards.text.words import fold

LETTERS = "ABCDEF"
DONT_KNOW = "don't know"

_NO_ANSWER = {DONT_KNOW, "dont know", "i don't know", "do not know", "unknown", "not stated", "none", "?", ""}
_AROUND = " \t\n\"'`*."
_LETTER = re.compile(r"[(\[\s]*([a-f])[)\]\s]*(?:[.:)\-].*)?", re.DOTALL)


async def answer_questions(
    reader: Asking, text: str, questions: Sequence[Question], *, about: str = ""
) -> tuple[str | None, ...]:
    """The option that the reader chooses for each question from `text`; None where it does not know.

    All in one call. Ids and the order of options follow from (seed, text, questions): they are others for
    each text, so that no text can name the right letters. Raises CallFailed.
    """
    ids, shuffled = _draw(reader.seed, text, questions)
    sheet = [
        {"id": name, "question": q.text, "options": dict(zip(LETTERS[: len(options)], options, strict=True))}
        for name, q, options in zip(ids, questions, shuffled, strict=True)
    ]
    return await reader.ask(
        load_text(TEXTS, "quiz_reader.md"),
        f"<text>\n{fenced_json([{'text': text}])}\n</text>\n\n"
        f"<questions>\n{fenced_json(sheet)}\n</questions>",
        _answers_schema(ids, max(len(q.options) for q in questions)),
        partial(read_answers, ids=ids, shuffled=shuffled),
        about=about,
    )


def _draw(seed: int, text: str, questions: Sequence[Question]) -> tuple[list[str], list[tuple[str, ...]]]:
    """An opaque id for each question, and its options in the order in which they are shown."""
    digest = blake2b(
        fenced_json([{"text": text, "quiz": [[q.text, *q.options] for q in questions]}]).encode()
    )
    draw = generator(seed, "quiz", digest.hexdigest())
    ids = all_different(len(questions), lambda: "q" + opaque(draw, 4))
    return ids, [tuple(q.options[i] for i in draw.permutation(len(q.options))) for q in questions]


def read_answers(
    reply: object, ids: Sequence[str], shuffled: Sequence[tuple[str, ...]]
) -> tuple[str | None, ...]:
    """The chosen options of a parsed reply, in the order of `ids`; raises Unusable with what is wrong.

    Answers are matched by id, as a complete set and in any order.

    >>> read_answers({"answers": [{"id": "qx", "answer": "don't know"}, {"id": "qa", "answer": "b"}]},
    ...              ["qa", "qx"], [("Ann", "Ben"), ("one", "two")])
    ('Ben', None)
    """
    entries = reply.get("answers") if isinstance(reply, Mapping) else None
    if isinstance(entries, Mapping):
        entries = [{"id": name, "answer": answer} for name, answer in entries.items()]
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise Unusable('The reply must be an object with a list "answers" of {"id", "answer"}.')
    given: dict[str, Any] = {}
    problems = []
    for entry in entries:
        name = str(entry.get("id", "")).strip(" \"'").casefold()
        if name not in ids:
            problems.append(f"There is no question {name[:40]!r}.")
        elif name in given:
            problems.append(f"{name} is answered twice.")
        given[name] = entry.get("answer")
    problems += [f"{name} is not answered." for name in ids if name not in given]
    if problems:
        raise Unusable(f"{' '.join(problems[:5])} Answer each of {', '.join(ids)} once.")
    return tuple(_choice(name, given[name], options) for name, options in zip(ids, shuffled, strict=True))


def _choice(name: str, written: object, options: tuple[str, ...]) -> str | None:
    """The option that is meant: by its letter, or by its whole text."""
    plain = "" if written is None else fold(str(written)).strip(_AROUND)
    texts = [fold(option).strip(_AROUND) for option in options]
    letters = LETTERS[: len(options)].casefold()
    if len(plain) == 1 and plain in letters:
        return options[letters.index(plain)]
    if plain and plain in texts:
        return options[texts.index(plain)]
    if plain in _NO_ANSWER:
        return None
    if (found := _LETTER.fullmatch(plain)) and found[1] in letters:
        return options[letters.index(found[1])]
    known = ", ".join(LETTERS[: len(options)])
    raise Unusable(f'The answer to {name} is {str(written)[:60]!r}; it must be {known} or "{DONT_KNOW}".')


def _answers_schema(ids: Sequence[str], options: int) -> Schema:
    choices = [*LETTERS[:options], DONT_KNOW]
    return listed(
        "answers",
        {"id": {"type": "string", "enum": list(ids)}, "answer": {"type": "string", "enum": choices}},
    )
