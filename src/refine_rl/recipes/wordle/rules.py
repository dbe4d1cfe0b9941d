"""The rules of the word game, and five rewards for a game of it. Words are five small letters.

A `mark` tells of a letter of a guess: "+" it stands in its right place, "?" the word has it elsewhere, "-"
the word has it no more often than other marks of the guess say. A `Seen` is a guess and its five marks.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

LENGTH = 5
GUESSES = 6
RIGHT, ELSEWHERE, ABSENT = "+", "?", "-"
SOLVED = RIGHT * LENGTH
FOLD = 0
"""Which answers are held out: no word is held out in two of the folds 0 to 4."""
VALIDATION, HELD_OUT = 24, 80
"""Answers that choose the checkpoint, and answers of the comparison alone."""

Seen = tuple[str, str]


@cache
def words() -> tuple[str, ...]:
    """Every word that may be guessed, in the order of the alphabet."""
    return tuple(Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split())


@cache
def answers(split: str, fold: int = FOLD) -> tuple[str, ...]:
    """The words that are looked for in games of a split: "train", "validation" or "held_out". No word is in
    two of them."""
    mixed = list(words())
    random.Random("wordle/answers/0").shuffle(mixed)
    first = fold * HELD_OUT
    mixed = mixed[first:] + mixed[:first]
    ends = {"held_out": (0, HELD_OUT), "validation": (HELD_OUT, HELD_OUT + VALIDATION)}
    begin, end = ends.get(split, (HELD_OUT + VALIDATION, len(mixed)))
    return tuple(sorted(mixed[begin:end]))


def made_up(rng: random.Random) -> str:
    """The head of a word of the list with the tail of another, which together are no word of it: "spaud"."""
    while True:
        cut = rng.choice((2, 3))
        word = rng.choice(words())[:cut] + rng.choice(words())[cut:]
        if word not in words():
            return word


@cache
def feedback(guess: str, answer: str) -> str:
    """The marks of a guess. Each letter of the answer accounts for one mark: right places first, then from
    left to right.

    >>> feedback("spare", "spree")
    '++-?+'
    >>> feedback("geese", "spree")
    '-?-?+'
    """
    marks = [RIGHT if g == a else ABSENT for g, a in zip(guess, answer, strict=True)]
    left = Counter(a for g, a in zip(guess, answer, strict=True) if g != a)
    for place, letter in enumerate(guess):
        if marks[place] != RIGHT and left[letter]:
            marks[place] = ELSEWHERE
            left[letter] -= 1
    return "".join(marks)


def consistent(word: str, seen: Iterable[Seen]) -> bool:
    """Whether a word could be the answer after these guesses.

    >>> consistent("spree", [("spare", "++-?+")]), consistent("spore", [("spare", "++-?+")])
    (True, False)
    """
    return all(feedback(guess, word) == marks for guess, marks in seen)


def solved(seen: Sequence[Seen]) -> float:
    """1 for a game that ends with the answer, else 0."""
    return float(bool(seen) and seen[-1][1] == SOLVED)


def partial(marks: str) -> float:
    """Partial credit of a guess: 0.2 a letter in its right place, 0.1 a letter that stands elsewhere.

    >>> partial("++-?+")
    0.7
    """
    return round(0.2 * marks.count(RIGHT) + 0.1 * marks.count(ELSEWHERE), 6)


def form(guess: str) -> float:
    """Form of a guess: 0 without one, 0.1 of a wrong length, 0.5 not a word of the list, else 1.

    >>> form(""), form("sprees"), form("spqrs"), form("spree")
    (0.0, 0.1, 0.5, 1.0)
    """
    if not guess:
        return 0.0
    if len(guess) != LENGTH:
        return 0.1
    return 1.0 if guess in words() else 0.5


def use(guess: str, seen: Sequence[Seen]) -> float:
    """Use of what earlier guesses told, a sum over the letters of a guess; the first of these that holds
    counts: +0.2 a confirmed place kept, -0.2 a known letter where it is known not to stand, +0.1 a known
    letter in a new place, -0.5 a letter known to be absent, +0.05 a letter that was not tried. 0 without
    earlier guesses.

    A letter that is in the word, but no more often than it was found, is known, not absent. A known letter is
    known not to stand where another one is confirmed.

    >>> use("spree", [("spare", "++-?+")])  # s, p, e kept; r in a new place; e known, in a new place
    0.8
    """
    if not seen:
        return 0.0
    kept = {(p, g[p]) for g, marks in seen for p in range(LENGTH) if marks[p] == RIGHT}
    wrong = {(p, g[p]) for g, marks in seen for p in range(LENGTH) if marks[p] != RIGHT}
    known = {g[p] for g, marks in seen for p in range(LENGTH) if marks[p] != ABSENT}
    tried = {letter for g, _ in seen for letter in g}
    taken = {p for p, _ in kept}
    total = 0.0
    for p, letter in enumerate(guess):
        if (p, letter) in kept:
            total += 0.2
        elif letter in known:
            total += -0.2 if (p, letter) in wrong or p in taken else 0.1
        elif letter in tried:
            total -= 0.5
        else:
            total += 0.05
    return round(total, 6)


def information(guess: str, seen: Sequence[Seen]) -> float:
    """Information of a guess: how far it is expected to reduce the entropy of the words that are left, as a
    share of that entropy, with all of them equally likely. 0 where one word or none is left.

    With n words left, of which n_f would give the marks f: H = log n, and the reduction is
    H - sum_f n_f / n log n_f, that is the entropy of the marks.
    """
    left = [word for word in words() if consistent(word, seen)]
    if len(left) < 2:
        return 0.0
    n = len(left)
    shares = Counter(feedback(guess, word) for word in left).values()
    return -sum(share / n * math.log(share / n) for share in shares) / math.log(n)
