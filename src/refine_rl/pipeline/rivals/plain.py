"""A plain search for a system prompt, where no LLM is there to think of one: the task's own words, alone and
with a few of the base model's best answers as examples. The best on training prompts is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.pipeline.rivals.trial import Trial, Tried
from refine_rl.types import Prompt

SHOWN = (1, 3)
"""Examples in a text."""
HOW = "the task's words, alone or with examples of the base model's best answers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The texts that were tried (None: the prompts as they are), each with its mean reward on the same
    training prompts; None for one without a score."""

    tried: tuple[tuple[str | None, float | None], ...]

    @property
    def best(self) -> str | None:
        """The first of those with the highest reward; None where the prompts as they are do as well."""
        scored = [(text, value) for text, value in self.tried if value is not None]
        return max(scored, key=lambda one: one[1])[0] if scored else None


def plain_search(
    trial: Trial, task: str, measured: Sequence[Prompt], shown: Sequence[Prompt], *, most: int
) -> Found:
    """The texts on the prompts `measured`, with answers to those `shown` as examples; `most` prompts are
    answered in all. A text for which the model has no room is left out."""
    shown = shown[: max(0, most - (2 + len(SHOWN)) * len(measured))]
    answered = trial(None, shown)
    good = _examples(shown, answered)
    texts = [task.strip(), *(with_examples(task, good[:count]) for count in SHOWN if len(good) >= count)]
    tried: list[tuple[str | None, float | None]] = [(None, trial.mean(None, measured))]
    tried += [(text, trial.mean(text, measured)) for text in texts if trial.fits(text)]
    return Found(tried=tuple(tried))


def _examples(prompts: Sequence[Prompt], answered: Sequence[Tried]) -> list[tuple[str, str]]:
    """Prompts with the base model's answer, those that earned most first."""
    known = [
        (tried.value, p.text, tried.said[0])
        for p, tried in zip(prompts, answered, strict=True)
        if tried.value is not None
    ]
    known.sort(key=lambda one: -one[0])
    return [(text, said) for _, text, said in known if said.strip()]


def with_examples(task: str, shown: Sequence[tuple[str, str]]) -> str:
    """
    >>> print(with_examples("Be kind.", [("Say hi.", "Hello, dear!")]))
    Be kind.
    <BLANKLINE>
    For example:
    <BLANKLINE>
    Say hi.
    -> Hello, dear!
    """
    examples = "\n\n".join(f"{asked}\n-> {said.strip()}" for asked, said in shown)
    return f"{task.strip()}\n\nFor example:\n\n{examples}"
