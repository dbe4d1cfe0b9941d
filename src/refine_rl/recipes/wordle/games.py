"""Games of flawed players, for supervised fine-tuning.

No game looks for a word that is held out. Most look for a made-up word, which nobody may guess: so the model
learns which words agree with the marks, rather than which words are looked for in training. Players guess any
word of the list.

Some guesses are drawn at random: they stand in the game, so that the model sees what follows from any guess,
and are not imitated ("train": false).
"""

from __future__ import annotations

import random
import runpy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_rules = runpy.run_path(str(Path(__file__).with_name("rules.py")))
_ask = runpy.run_path(str(Path(__file__).with_name("prompts.py")))["ASK"]
_show = runpy.run_path(str(Path(__file__).with_name("world.py")))["show"]

MADE_UP = 0.9
"""Share of the games that look for a made-up word."""
WANDERS = 0.5
"""Share of the guesses before the sixth that are drawn at random."""
PLAYERS = {
    "careful": 0.7,
    "forgets absent letters": 0.15,
    "looks at the last guess": 0.1,
    "sees right places alone": 0.05,
}
"""How games are played, with their shares."""
_READS = {
    "forgets absent letters": _rules["RIGHT"] + _rules["ELSEWHERE"],
    "sees right places alone": _rules["RIGHT"],
}


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` games, the same ones for the same seed."""
    rng = random.Random(f"wordle/games/{seed}")
    secrets = _rules["answers"]("train")
    players = rng.choices(list(PLAYERS), list(PLAYERS.values()), k=count)
    answers = [_rules["made_up"](rng) if rng.random() < MADE_UP else rng.choice(secrets) for _ in players]
    return [{"messages": game(rng, answer, player)} for answer, player in zip(answers, players, strict=True)]


def game(rng: random.Random, answer: str, player: str) -> list[dict[str, Any]]:
    """A game as a chat."""
    chat: list[dict[str, Any]] = [{"role": "user", "content": _ask}]
    seen: list[tuple[str, str]] = []
    others = [word for word in _rules["words"]() if word != answer]
    for left in reversed(range(_rules["GUESSES"])):
        wanders = left > 0 and rng.random() < WANDERS
        guess = rng.choice(others if wanders else fitting(seen, player))
        chat.append({"role": "assistant", "content": guess} | ({"train": False} if wanders else {}))
        seen.append((guess, _rules["feedback"](guess, answer)))
        if guess == answer or not left:
            break
        chat.append({"role": "user", "content": _show(*seen[-1])})
    return chat


def fitting(seen: Sequence[tuple[str, str]], player: str) -> list[str]:
    """The words that a player may guess: of those not guessed, the ones that contradict the fewest of the
    marks that this player remembers; none of them where a word of the list is looked for."""
    words = _rules["words"]()
    wrong = np.zeros(len(words), dtype=np.int64)
    for guess, marks in seen[-1:] if player == "looks at the last guess" else seen:
        wrong += contradictions(guess, marks, _READS.get(player, marks))
    for guess, _ in seen:
        wrong[_places()[guess]] = len(marks) * len(seen) + 1
    return [words[n] for n in np.flatnonzero(wrong == wrong.min())]


def contradictions(guess: str, marks: str, read: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each word of the list, how many marks of a guess, of the kinds in `read`, would be others if the
    word was looked for. [words]"""
    places = [place for place, mark in enumerate(marks) if mark in read]
    would, are = _marks(guess)[:, places], np.frombuffer(marks.encode(), dtype=np.uint8)[places]
    return np.asarray((would != are).sum(1), dtype=np.int64)


@cache
def _marks(guess: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The marks of a guess for each word that might be looked for. [words, 5]"""
    marks = "".join(_rules["feedback"](guess, word) for word in _rules["words"]())
    return np.frombuffer(marks.encode(), dtype=np.uint8).reshape(-1, _rules["LENGTH"])


@cache
def _places() -> dict[str, int]:
    """Where each word stands in the list."""
    return {word: place for place, word in enumerate(_rules["words"]())}
