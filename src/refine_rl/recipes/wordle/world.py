"""The world of the recipe `wordle`: six guesses for a word of five letters, with the marks of each.

Classes beside `Wordle` pay for a game in other ways; name one of them in `rollout.environment`.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

_rules = runpy.run_path(str(Path(__file__).with_name("rules.py")))

NOT_A_WORD = "unknown"
"""Said of a guess that is no word of the list."""


def show(guess: str, marks: str) -> str:
    """What the policy reads of a guess.

    >>> show("spare", "++-?+")
    '1s+ 2p+ 3a- 4r? 5e+'
    """
    return " ".join(
        f"{n}{letter}{mark}" for n, (letter, mark) in enumerate(zip(guess, marks, strict=True), 1)
    )


def guess_of(reply: str) -> str:
    """The guess in a reply: what stands in the last <guess> tag, without one the whole reply.

    >>> guess_of("<think>an s?</think> <guess>Spree</guess>"), guess_of(" spree ")
    ('spree', 'spree')
    """
    tagged = re.findall(r"<guess>(.*?)</guess>", reply, re.DOTALL)
    return str(tagged[-1] if tagged else reply).strip().lower()


class Wordle:
    """What the recipe trains on: the sooner solved, the more; a guess after the first earns 0.2 where it
    could be the answer after all that was seen, and costs 0.1 where it could not."""

    def start(self, data: dict[str, Any], seed: int) -> str:
        self.answer = str(data["answer"])
        self.seen: list[tuple[str, str]] = []
        self.turn = 0
        return ""

    def step(self, reply: str) -> tuple[str, float, bool]:
        guess = guess_of(reply)
        self.turn += 1
        over = self.turn == _rules["GUESSES"]
        if guess not in _rules["words"]():
            return NOT_A_WORD, self.reward(guess, ""), over
        marks = _rules["feedback"](guess, self.answer)
        reward = self.reward(guess, marks)
        self.seen.append((guess, marks))
        return show(guess, marks), reward, over or marks == _rules["SOLVED"]

    def reward(self, guess: str, marks: str) -> float:
        """Of a guess and its marks, "" for what is no word; `self.seen` are the guesses before it."""
        earned = 1.1 - 0.1 * self.turn if marks == _rules["SOLVED"] else 0.0
        if self.turn == 1:
            return earned
        return earned + (0.2 if marks and _rules["consistent"](guess, self.seen) else -0.1)


class Solved(Wordle):
    """1 for the answer, nothing else."""

    def reward(self, guess: str, marks: str) -> float:
        return float(_rules["solved"]([(guess, marks)]))


class Partial(Wordle):
    """Partial credit for each guess. Summed over the turns it pays for not finishing (take = "sum" shows the
    hack); take = "best" is safe."""

    def reward(self, guess: str, marks: str) -> float:
        return float(_rules["partial"](marks))


class Form(Wordle):
    """Form alone: whether guesses are words."""

    def reward(self, guess: str, marks: str) -> float:
        return float(_rules["form"](guess)) / 6


class Use(Solved):
    """1 for the answer, and what a guess makes of earlier ones' marks."""

    def reward(self, guess: str, marks: str) -> float:
        used = _rules["use"](guess, self.seen) if marks else -1.0
        return super().reward(guess, marks) + float(used)


class Information(Solved):
    """1 for the answer, and the information of each guess."""

    def reward(self, guess: str, marks: str) -> float:
        gained = _rules["information"](guess, self.seen) if marks else 0.0
        return super().reward(guess, marks) + float(gained) / 6
