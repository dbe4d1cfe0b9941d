"""What is reported of a game beside the world's reward, and not trained on. `answer` comes from the prompt's
data."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

from refine_rl.types import Message, Score

_HERE = Path(__file__)
_guess_of = runpy.run_path(str(_HERE.with_name("world.py")))["guess_of"]
_most = runpy.run_path(str(_HERE.with_name("rules.py")))["GUESSES"]


def solved(prompt: str, completion: str, answer: str, messages: Sequence[Message]) -> Score:
    """1 where the answer was found, else 0."""
    guesses = _guesses(messages)
    found = answer in guesses
    return Score(value=float(found), explanation=f"{answer}: {', '.join(guesses)}")


def guesses(prompt: str, completion: str, answer: str, messages: Sequence[Message]) -> Score:
    """How many guesses it took; one more than there are where the answer was not found."""
    made = _guesses(messages)
    taken = made.index(answer) + 1 if answer in made else _most + 1
    told = f"found with guess {taken}" if answer in made else "not found"
    return Score(value=float(taken), explanation=told)


def _guesses(messages: Sequence[Message]) -> list[str]:
    return [_guess_of(m["content"]) for m in messages if m["role"] == "assistant"]
