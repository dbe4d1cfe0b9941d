"""Prompts of the recipe `dots`: count dots among letters, or write a pattern several times.

The letters of a prompt decide, by a hash, to which split it belongs.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

SPLITS = ("train", "validation", "held_out")
LETTERS = "bcdfghjkmnpqrstvwxz"
MOST_DOTS = 6
COUNT_FORMS = ("How many dots? {row}", "Count the dots: {row}", "{row}\nHow many dots are there?")
REPEAT_FORMS = (
    "Write this pattern {n} times: {row}",
    "Repeat the pattern {n} times: {row}",
    "Pattern: {row}\nWrite it {n} times.",
)


def count_task(rng: random.Random) -> tuple[str, str, str]:
    """Letters with 1 to `MOST_DOTS` dots between them: the request, the right answer, the letters."""
    letters = rng.sample(LETTERS, 3)
    dots = rng.randint(1, MOST_DOTS)
    row = letters + ["."] * dots
    rng.shuffle(row)
    key = "".join(sign for sign in row if sign != ".")
    return rng.choice(COUNT_FORMS).format(row=" ".join(row)), str(dots), key


def repeat_task(rng: random.Random) -> tuple[str, str, str]:
    """A pattern of 3 letters, 2 to 4 times: the request, the right answer, the letters."""
    letters = rng.sample(LETTERS, 3)
    n, row = rng.randint(2, 4), " ".join(letters)
    return rng.choice(REPEAT_FORMS).format(n=n, row=row), " ".join([row] * n), "".join(letters)


def split_of(key: str) -> str:
    """The split that owns these letters: one in ten is validation, two are held out."""
    bucket = hashlib.blake2b(key.encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "held_out" if bucket in (1, 2) else "train"


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different prompts of a split, half of each kind; the same ones for the same seed.

    `data` has the right `answer` and the `kind` ("count" or "repeat").
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    rng = random.Random(f"dots/{split}/{seed}")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        kind = "repeat" if len(found) % 2 else "count"
        text, answer, key = repeat_task(rng) if kind == "repeat" else count_task(rng)
        if split_of(key) == split and text not in found:
            found[text] = {
                "prompt": text,
                "facets": {"kind": kind, "size": str(len(answer.split()) if kind == "repeat" else answer)},
                "data": {"answer": answer, "kind": kind},
            }
    return list(found.values())
