"""What a rival is: how it is made, from training prompts alone, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from refine_rl.evaluate.answer import Answers
from refine_rl.pipeline.rivals.tries import Tries
from refine_rl.pipeline.work import Work
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.run.rivals import RivalFiles
from refine_rl.settings import Settings
from refine_rl.types import Message, Prompt, Trajectory

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ring:
    """What a rival is made with: the run at work, the `base` model as it answers, the training prompts, and
    the rival's own files and tries."""

    work: Work
    base: Speaker
    train: Sequence[Prompt]
    files: RivalFiles
    tries: Tries

    @property
    def settings(self) -> Settings:
        return self.work.settings

    @property
    def purpose(self) -> Purpose:
        """For draws on training prompts."""
        return self.work.purpose(f"rival {self.files.name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What a rival answered; `tokens` that were sampled for an answer on average, and how many `draws`; what
    else one costs, in words ("" for what base costs)."""

    answers: Sequence[Answers]
    tokens: float
    at_use: str = ""
    draws: int = 1


class Rival(Protocol):
    """One way to the same end."""

    def of(self, settings: Settings) -> Record:
        """The settings from which it follows: where they are others, it is made anew."""

    def make(self, ring: Ring) -> Record:
        """Makes it, and says what it is: "how" in words, "found" (a text) or "folder" where there is one.
        Raises what kept it from being made."""

    def answer(
        self, ring: Ring, made: Mapping[str, Any], prompts: Sequence[Prompt], purpose: Purpose
    ) -> Answered:
        """As many answers to each prompt as base and tuned give."""


def tokens_of(answers: Sequence[Answers]) -> float:
    """Sampled tokens of an answer on average, the greedy ones apart."""
    every = [t.completion_tokens for a in answers for t in a.sampled]
    return sum(every) / len(every)


def as_asked(answers: Sequence[Answers], prompts: Sequence[Prompt]) -> list[Answers]:
    """Answers to prompts that were put in other words, as answers to the `prompts` themselves: who scores
    them sees what base and tuned were asked. Their tokens stay those that were read."""

    def own(t: Trajectory, asked: Prompt, prompt: Prompt) -> Trajectory:
        said: tuple[Message, ...] = t.messages[len(asked.messages) :]
        return replace(t, messages=(*prompt.messages, *said))

    return [
        Answers(
            prompt=prompt,
            sampled=tuple(own(t, a.prompt, prompt) for t in a.sampled),
            greedy=own(a.greedy, a.prompt, prompt),
        )
        for a, prompt in zip(answers, prompts, strict=True)
    ]
