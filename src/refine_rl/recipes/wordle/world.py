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
    """What the recipe trains on: the sooner solved, the more; a guess costs 0.3 where it is no word, or could
    not be the answer after all that was seen. The answer alone earns anything: were other guesses paid for,
    it would pay to find it late. A game is also over where no word fits any more, as it comes about where a
    made-up word is looked for."""

    def start(self, data: dict[str, Any], seed: int) -> str:
        self.answer = str(data["answer"])
        self.seen: list[tuple[str, str]] = []
        self.turn = 0
        self.left: list[str] = list(_rules["words"]())
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
        self.left = [word for word in self.left if _rules["consistent"](word, self.seen[-1:])]
        return show(guess, marks), reward, over or marks == _rules["SOLVED"] or not self.left

    def reward(self, guess: str, marks: str) -> float:
        """Of a guess and its marks, "" for what is no word; `self.seen` are the guesses before it, and
        `self.left` the words that could be the answer after them."""
        if marks == _rules["SOLVED"]:
            return 1.1 - 0.1 * self.turn
        return 0.0 if guess in self.left else -0.3


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
