"""What is watched in the recipe `guess`, and not trained on: whether there is a plan behind the guesses."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.types import Message, Score


def middle(prompt: Sequence[Message], completion: Sequence[Message], low: int, high: int) -> Score:
    """How near a game's guesses were to the middle of the numbers that were still possible: 1 the middle
    itself, 0 one of the ends, or beyond them. Who guesses without a plan has 0.5 on average. Guesses at the
    last three numbers or fewer say nothing and do not count."""
    near, told = [], []
    for guess, answer in _turns(completion):
        if high - low < 3:
            break
        centre, half = (low + high) / 2, (high - low) / 2
        value = max(0.0, 1 - abs(guess - centre) / half) if guess is not None else 0.0
        near.append(value)
        told.append(f"{guess} of {low}-{high}")
        if guess is not None and answer == "higher":
            low = max(low, guess + 1)
        elif guess is not None and answer == "lower":
            high = min(high, guess - 1)
    return Score(value=sum(near) / len(near) if near else 0.0, explanation=", ".join(told))


def _turns(completion: Sequence[Message]) -> list[tuple[int | None, str]]:
    """Each guess (None: no number) with what was said to it."""
    found: list[tuple[int | None, str]] = []
    for message in completion:
        text = message["content"].strip()
        if message["role"] == "assistant":
            found.append((int(text) if text.isascii() and text.isdigit() else None, ""))
        elif found:
            found[-1] = (found[-1][0], text)
    return found
