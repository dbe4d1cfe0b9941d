"""The world of the recipe `guess`: a number within a range, five guesses, each answered higher or lower."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

GUESSES = 5


class Guess:
    """One game. The number follows from the seed alone, so all members of a group look for the same one."""

    def start(self, data: Mapping[str, Any], seed: int) -> str:
        """The prompt has said the range; nothing is added."""
        self.number = random.Random(seed).randint(data["low"], data["high"])
        self.left = GUESSES
        return ""

    def step(self, reply: str) -> tuple[str, float, bool]:
        """What is said to a guess; the reward is 1 for the right one, and the game ends there or behind the
        last one. What is no number is a guess lost."""
        self.left -= 1
        word = reply.strip()
        guess = int(word) if word.isascii() and word.isdigit() and len(word) < 10 else None
        if guess == self.number:
            return "right", 1.0, True
        if not self.left:
            return f"it was {self.number}", 0.0, True
        if guess is None:
            return "say a number", 0.0, False
        return "higher" if self.number > guess else "lower", 0.0, False
