"""Prompts of the recipe `guess`: each says a range of 24 to 31 numbers, which five guesses can just search.

A range belongs to one split, by a hash: what is held out was never played in, neither in the examples of
`pairs.py` nor in training.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

SPLITS = ("train", "validation", "held_out")
LEAST, MOST = 10, 70
SIZES = range(24, 32)  # numbers in a range


def ranges(split: str) -> list[tuple[int, int]]:
    """All ranges of a split, their ends included; three of ten are held out, one validates."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    every = [(low, low + size - 1) for size in SIZES for low in range(LEAST, MOST - size + 2)]
    return [ends for ends in every if _split_of(ends) == split]


def text(low: int, high: int) -> str:
    """What the policy is told."""
    return f"I think of a number from {low} to {high}. You have five guesses."


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` ranges of a split, or all where there are fewer; the same ones for the same seed. `data` has
    the ends, `low` and `high`, for the world."""
    found = ranges(split)
    random.Random(f"guess/{split}/{seed}").shuffle(found)
    return [
        {
            "prompt": text(low, high),
            "facets": {"numbers": str(high - low + 1)},
            "data": {"low": low, "high": high},
        }
        for low, high in found[:count]
    ]


def _split_of(ends: tuple[int, int]) -> str:
    bucket = hashlib.blake2b(repr(ends).encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "held_out" if bucket < 4 else "train"
