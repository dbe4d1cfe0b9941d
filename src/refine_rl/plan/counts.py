"""How many prompts a run will have, and how long its texts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_rl.prompts.sources import WRITTEN, numbers_asked_for
from refine_rl.settings import PromptSettings, QuizSettings, RolloutSettings, WriterSettings
from refine_rl.types import Prompt

CHARS_PER_TOKEN = 4  # of English, in the vocabularies of present models
WRITTEN_CHARS = 240  # of a prompt, and of a system message, that a writer has yet to write

BETWEEN_TURNS = 30  # tokens: what the template writes, and a sentence of the environment or the tools


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Prompts by split; `chars`, the mean length of one with all its messages; `tools`, the characters in
    which the policy is told of its tools before each. For a quiz: different source texts by split, and their
    mean length. `written`: the prompts are still to be written."""

    train: int
    validation: int
    held_out: int
    chars: float
    tools: int = 0
    written: bool = False
    train_sources: int = 0
    other_sources: int = 0
    source_chars: float = 0.0

    @property
    def total(self) -> int:
        return self.train + self.validation + self.held_out

    @property
    def tokens(self) -> int:
        """Of a prompt."""
        return tokens(self.chars)

    @property
    def read(self) -> int:
        """Tokens that the policy reads before it answers: of its tools and a prompt."""
        return tokens(self.tools + self.chars)


def tokens(chars: float) -> int:
    """About as many tokens as a text of that length has.

    >>> tokens(10)
    3
    """
    return -int(-chars // CHARS_PER_TOKEN)


def turns_of(rollout: RolloutSettings) -> int:
    """How often the policy speaks in a trajectory, at most."""
    return rollout.turns if rollout.several_turns else 1


def given_between(rollout: RolloutSettings) -> int:
    """Tokens of a trajectory that the policy did not say, behind its prompt: those between its turns."""
    return (turns_of(rollout) - 1) * BETWEEN_TURNS


def said_in_group(rollout: RolloutSettings, members: int, share: float) -> float:
    """Tokens of the policy's in a group's trajectories, as they are trained on, where an answer has `share`
    of those that it may have. Where answers begin behind a part of another one's thought (rollout.behind),
    half of it on average stands in each.

    >>> said_in_group(RolloutSettings(max_tokens=100), 4, 0.5)
    200.0
    """
    whole = share * rollout.most_tokens
    if rollout.behind is None:
        return members * whole
    return whole + (members - 1) * (whole / 2 + share * rollout.behind)


def written_counts(prompts: PromptSettings, writer: WriterSettings) -> Counts:
    """Of prompts that a writer will write."""
    system = len(prompts.system) or (WRITTEN_CHARS if writer.system else 0)
    return Counts(**numbers_asked_for(prompts, WRITTEN), chars=WRITTEN_CHARS + system, written=True)


def count_prompts(prompts: Sequence[Prompt], quiz: QuizSettings | None = None) -> Counts:
    """Of prompts that are there; a `quiz` is about the sources that they carry."""
    splits = Counter(p.split for p in prompts)
    texts = [(p.split, str(p.data.get(quiz.source, ""))) for p in prompts] if quiz is not None else []
    train = {text for split, text in texts if split == "train"}
    others = {text for split, text in texts if split != "train"}
    return Counts(
        train=splits["train"],
        validation=splits["validation"],
        held_out=splits["held_out"],
        chars=fmean(sum(len(m["content"]) for m in p.messages) for p in prompts),
        train_sources=len(train),
        other_sources=len(others - train),
        source_chars=fmean(len(text) for _, text in texts) if texts else 0.0,
    )
