"""Games of flawed players, for supervised fine-tuning. Their answers are words of training alone; they guess
any word of the list.

Some guesses are drawn at random: they stand in the game, so that the model sees what follows from any guess,
and are not imitated ("train": false).
"""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_rules = runpy.run_path(str(Path(__file__).with_name("rules.py")))
_ask = runpy.run_path(str(Path(__file__).with_name("prompts.py")))["ASK"]
_show = runpy.run_path(str(Path(__file__).with_name("world.py")))["show"]

WANDERS = 0.5
"""Share of the guesses before the sixth that are drawn at random."""
DOUBTS = 0.25
"""Share of a player's guesses that pass the answer over while another word fits. Else the model learns which
words are looked for in training, rather than which words fit."""
PLAYERS = {
    "careful": 0.4,
    "forgets absent letters": 0.3,
    "looks at the last guess": 0.2,
    "sees right places alone": 0.1,
}
"""How games are played, with their shares."""


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` games, the same ones for the same seed."""
    rng = random.Random(f"wordle/games/{seed}")
    secrets = _rules["answers"]("train")
    players = rng.choices(list(PLAYERS), list(PLAYERS.values()), k=count)
    return [{"messages": game(rng, rng.choice(secrets), player)} for player in players]


def game(rng: random.Random, answer: str, player: str) -> list[dict[str, Any]]:
    """A game as a chat."""
    chat: list[dict[str, Any]] = [{"role": "user", "content": _ask}]
    seen: list[tuple[str, str]] = []
    others = [word for word in _rules["words"]() if word != answer]
    for left in reversed(range(_rules["GUESSES"])):
        wanders = left > 0 and rng.random() < WANDERS
        doubts = not wanders and rng.random() < DOUBTS
        guess = rng.choice(others) if wanders else choose(rng, seen, player, answer if doubts else "")
        chat.append({"role": "assistant", "content": guess} | ({"train": False} if wanders else {}))
        seen.append((guess, _rules["feedback"](guess, answer)))
        if guess == answer or not left:
            break
        chat.append({"role": "user", "content": _show(*seen[-1])})
    return chat


def choose(rng: random.Random, seen: Sequence[tuple[str, str]], player: str, other_than: str = "") -> str:
    """A guess of a player: any word that could be the answer for all that this player remembers, another one
    than `other_than` where there is one."""
    left = set(_rules["words"]()).difference(guess for guess, _ in seen)
    for guess, marks in seen[-1:] if player == "looks at the last guess" else seen:
        left &= FITS[player](guess, marks)
    return str(rng.choice(sorted(left - {other_than} or left)))


@cache
def _exactly(guess: str, marks: str) -> frozenset[str]:
    """The words for which a guess gets these marks."""
    feedback = _rules["feedback"]
    return frozenset(word for word in _rules["words"]() if feedback(guess, word) == marks)


def _found(guess: str, marks: str) -> frozenset[str]:
    """The words with the letters that were found, in their places or elsewhere."""
    elsewhere = [_with(g) - _with(g, p) for p, g in enumerate(guess) if marks[p] == _rules["ELSEWHERE"]]
    return _right_places(guess, marks).intersection(*elsewhere)


def _right_places(guess: str, marks: str) -> frozenset[str]:
    """The words with the letters that are in their places."""
    right = [_with(g, p) for p, g in enumerate(guess) if marks[p] == _rules["RIGHT"]]
    return frozenset(_rules["words"]()).intersection(*right)


@cache
def _with(letter: str, place: int | None = None) -> frozenset[str]:
    """The words with a letter, anywhere or in a place."""
    return frozenset(w for w in _rules["words"]() if letter in (w if place is None else w[place]))


FITS: dict[str, Callable[[str, str], frozenset[str]]] = {
    "careful": _exactly,
    "looks at the last guess": _exactly,
    "forgets absent letters": _found,
    "sees right places alone": _right_places,
}
