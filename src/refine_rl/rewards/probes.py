"""Answers that no model gave, to look at a reward with: bad ones that policies are known to end with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from refine_rl.rewards.judges.anchors import COPY, KINDS
from refine_rl.types import Prompt

Texts = Mapping[str, Callable[[Prompt], str]]
_PLAIN = ("empty", "off the topic", COPY)
_WORDS = 3  # of the prompt, that are said again and again
_TIMES = 20

_REFUSAL = "I'm sorry, but I can't help with that."


def _phrase(prompt: Prompt) -> str:
    """
    >>> message = {"role": "user", "content": "Say it like this again."}
    >>> _phrase(Prompt(id="p", split="train", messages=(message,)))[:30]
    'Say it like Say it like Say it'
    """
    return " ".join(prompt.text.split()[:_WORDS] * _TIMES)


def bad_answers(*, judged: bool) -> Texts:
    """The bad answers by name, each as a function of the prompt; where an LLM has a say, those too that try
    to talk to it.

    >>> sorted(bad_answers(judged=False))
    ['copied prompt', 'empty', 'off the topic', 'phrase repeated', 'refusal']
    """
    known = KINDS if judged else {kind: KINDS[kind] for kind in _PLAIN}
    return {**known, "phrase repeated": _phrase, "refusal": lambda prompt: _REFUSAL}
