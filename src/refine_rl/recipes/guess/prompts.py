"""Prompts of the recipe `guess`: each says a range of 21 to 31 numbers, which five guesses can just search.

A range belongs to one split, by a hash: what is held out was never played in, neither in the examples of
`pairs.py` nor in training, however it is worded.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

SPLITS = ("train", "validation", "held_out")
LEAST, MOST = 10, 40
SIZES = range(21, MOST - LEAST + 2)  # numbers in a range
FORMS = (
    "A number from {low} to {high}.",
    "Guess my number, {low} to {high}.",
    "Which number is it, from {low} to {high}?",
    "Find the number: {low} to {high}.",
)


def ranges(split: str) -> list[tuple[int, int]]:
    """All ranges of a split, their ends included; three of ten are held out, one validates."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    every = [(low, low + size - 1) for size in SIZES for low in range(LEAST, MOST - size + 2)]
    return [ends for ends in every if _split_of(ends) == split]


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` prompts of a split, or all where there are fewer; the same ones for the same seed. `data` has
    the ends, `low` and `high`, for the world."""
    found = [(form, low, high) for low, high in ranges(split) for form in FORMS]
    random.Random(f"guess/{split}/{seed}").shuffle(found)
    return [
        {
            "prompt": form.format(low=low, high=high),
            "facets": {"numbers": str(high - low + 1)},
            "data": {"low": low, "high": high},
        }
        for form, low, high in found[:count]
    ]


def _split_of(ends: tuple[int, int]) -> str:
    bucket = hashlib.blake2b(repr(ends).encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "held_out" if bucket < 4 else "train"
