"""A quiz as reward: what somebody who has only the completion can answer about the source.

source -> writer -> questions -> reader, from the source    (kept: what it answers rightly)
                              -> reader, from no text       (left out: what it answers rightly even so)
completion + questions        -> reader                     (the share that it answers rightly)

A completion that copies the source answers everything. Two penalties stop that: the one on copying
here, and the one on length (`reward.overlong`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from refine_rl.errors import UserError
from refine_rl.llm.background import all_of
from refine_rl.llm.client import CallFailed
from refine_rl.rewards.quiz.answering import answer_questions
from refine_rl.rewards.quiz.questions import Asking, Question, write_questions
from refine_rl.rewards.text.words import fold, ngrams, split_words
from refine_rl.types import Prompt, Score, Trajectory

COPIED_WORDS = 5
"""So many words in a row that stand in the source as well are copied."""


class Shelf(Protocol):
    """Where questions outlast the process, as JSON objects."""

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put there last under the key; None where nothing was."""

    def put(self, key: str, made: dict[str, Any]) -> None:
        """Keeps it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The questions of a source that can be used, and how many were left out and why."""

    questions: tuple[Question, ...]
    not_answered: int = 0  # the reader does not find the answer in the source
    guessed: int = 0  # the reader answers it without any text

    @property
    def left_out(self) -> str:
        return (
            f"{self.not_answered} could not be answered from the source, "
            f"{self.guessed} could be answered without it"
        )

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Checked:
        """From what `asdict` made of it."""
        questions = [Question(**{**q, "wrong": tuple(q["wrong"])}) for q in record["questions"]]
        return cls(**{**record, "questions": tuple(questions)})


@dataclass(frozen=True, kw_only=True)
class Quiz:
    """The share of the source's questions that the reader answers rightly from the completion.

    `source` is the key of the prompt's data that holds the source text. Its questions are made once
    (`make_questions`), also where many groups ask for them at the same time, and kept in memory and on the
    shelf, if there is one: another process finds them there. "Don't know" counts as wrong.

    Where the share of the completion's word 5-grams that stand in the source is above `max_copied`, the
    value falls: value * (1 - (copied - max_copied) / (1 - max_copied)), so that a pure copy gets 0.

    An empty completion gets 0 without a call; equal completions are read once. A call that fails, or a
    source without any usable question, makes scores missing.
    """

    writer: Asking
    reader: Asking
    task: str
    source: str = "source"
    questions: int = 10
    options: int = 4
    max_copied: float = 0.3
    shelf: Shelf | None = None
    name: str = "quiz"
    _made: dict[str, Checked] = field(default_factory=dict, init=False, repr=False, compare=False)
    _making: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[Checked]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def check_prompt(self, prompt: Prompt) -> None:
        """Raises a UserError where the prompt's data has no source text."""
        text = prompt.data.get(self.source)
        if not isinstance(text, str) or not text.strip():
            found = ", ".join(f"`{key}`" for key in prompt.data) or "nothing"
            where = f" ({prompt.origin})" if prompt.origin else ""
            raise UserError(
                f"prompt {prompt.id}{where} has no text `{self.source}` in its data to ask questions about "
                f"(there is {found}); `reward.quiz.source` names the key"
            )

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score a trajectory, in the same order. What stops a run (EndpointRefused, EndpointDown,
        GuardStop) is let through."""
        self.check_prompt(prompt)
        source: str = prompt.data[self.source]
        texts = list(dict.fromkeys(t.said for t in trajectories))
        scores = dict(zip(texts, await all_of(self._score(prompt, source, t) for t in texts), strict=True))
        return [scores[t.said] for t in trajectories]

    async def _score(self, prompt: Prompt, source: str, completion: str) -> Score:
        if not completion.strip():
            return Score(value=0.0, explanation="empty: it answers no question")
        try:
            checked = await self._questions(prompt, source)
            if not checked.questions:
                return Score.missing(f"no question about the source can be used: {checked.left_out}")
            chosen = await answer_questions(self.reader, completion, checked.questions, about=prompt.id)
        except CallFailed as error:
            return Score.missing(str(error))
        return self._graded(source, completion, checked.questions, chosen)

    def _graded(
        self, source: str, completion: str, questions: Sequence[Question], chosen: Sequence[str | None]
    ) -> Score:
        right = sum(c == q.right for q, c in zip(questions, chosen, strict=True))
        lines = [f"{right} of {len(questions)} right"]
        copied = copied_share(completion, source)
        factor = 1.0
        if copied > self.max_copied:
            factor = 1 - (copied - self.max_copied) / (1 - self.max_copied)
            lines[0] += f"; {copied:.0%} copied, {self.max_copied:.0%} allowed: x {factor:.2f}"
        lines += [_line(q, c) for q, c in zip(questions, chosen, strict=True)]
        return Score(value=right / len(questions) * factor, explanation="\n".join(lines))

    async def _questions(self, prompt: Prompt, source: str) -> Checked:
        """The questions about a source. Only one group makes them; the others wait for it.

        What came of them is kept, also where no question is usable; a call that failed is tried again by
        the next group.
        """
        key = self._key(source)
        if key not in self._made and self.shelf is not None and (record := self.shelf.get(key)) is not None:
            self._made[key] = Checked.of_record(record)
        if key in self._made:
            return self._made[key]
        place = asyncio.get_running_loop(), key
        if place not in self._making:
            task = asyncio.create_task(self._make(key, source, prompt.id))
            task.add_done_callback(lambda _: self._making.pop(place, None))
            self._making[place] = task
        # Whoever waits may be cancelled without taking the questions from the others.
        return await asyncio.shield(self._making[place])

    def _key(self, source: str) -> str:
        """Everything that makes it another quiz. How LLMs are sampled does not: that may change in a run."""
        who = [(asking.client.model, asking.seed) for asking in (self.writer, self.reader)]
        what = json.dumps([source, self.task, self.questions, self.options, who])
        return blake2b(what.encode(), digest_size=16).hexdigest()

    async def _make(self, key: str, source: str, about: str) -> Checked:
        made = await make_questions(
            self.writer,
            self.reader,
            source,
            task=self.task,
            count=self.questions,
            options=self.options,
            about=about,
        )
        if self.shelf is not None:
            self.shelf.put(key, asdict(made))
        self._made[key] = made
        return made


async def make_questions(
    writer: Asking, reader: Asking, source: str, *, task: str, count: int, options: int, about: str = ""
) -> Checked:
    """The questions that the writer asks about `source` and the reader can answer from it, but not without.

    Three calls. Raises CallFailed where one of them cannot be had.
    """
    written = await write_questions(writer, source, task=task, count=count, options=options, about=about)
    answered, guessed = await all_of(
        answer_questions(reader, text, written, about=about) for text in (source, "")
    )
    kept, not_answered = [], 0
    for question, found, guess in zip(written, answered, guessed, strict=True):
        if found != question.right:
            not_answered += 1
        elif guess != question.right:
            kept.append(question)
    return Checked(
        questions=tuple(kept),
        not_answered=not_answered,
        guessed=len(written) - not_answered - len(kept),
    )


def copied_share(completion: str, source: str) -> float:
    """The share of the completion's word 5-grams that stand in the source, whatever the case; 0 without any.

    >>> copied_share("We met the new team on Monday", "On Friday we met the new team.")
    0.3333333333333333
    """
    own = ngrams(split_words(fold(completion)), COPIED_WORDS)
    theirs = set(ngrams(split_words(fold(source)), COPIED_WORDS))
    return sum(gram in theirs for gram in own) / len(own) if own else 0.0


def _line(question: Question, chosen: str | None) -> str:
    if chosen == question.right:
        return f"right: {question.text} {question.right}"
    said = "not known" if chosen is None else f"answered {chosen}"
    return f"wrong: {question.text} {question.right} ({said})"
