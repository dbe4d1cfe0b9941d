"""What the small model of the recipe `docstrings` is taught: the pairs of `pairs.jsonl`, and to copy.

A docstring repeats words of its code, which a model from scratch has to learn; copied words beside it are the
shortest way there.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

PAIRS = Path(__file__).with_name("pairs.jsonl")
COPIED = 0.125  # rows of copying, as a share of the pairs
MOST_WORDS = 8


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """At most `count` rows, with their split; the same ones for the same seed. Raises FileNotFoundError where
    there is no file of pairs yet."""
    if not PAIRS.is_file():
        raise FileNotFoundError(
            f"{PAIRS.name} is not there: README.md has the command that makes it (`refine data`)"
        )
    rng = random.Random(f"docstrings/{seed}")
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    shown = [{key: row[key] for key in ("prompt", "answer", "split")} for row in rows]
    shown = [row for row in shown if row["split"] != "held_out"]
    train = [row["answer"] for row in shown if row["split"] == "train"]
    copied = [copying(rng, rng.choice(train)) for _ in range(round(COPIED * len(shown)))] if train else []
    found = shown + copied
    rng.shuffle(found)
    return found[:count]


def copying(rng: random.Random, answer: str) -> dict[str, str]:
    """A row that asks for words of a docstring in another order, as they stand."""
    words = answer.rstrip(".").split()
    said = " ".join(rng.sample(words, min(MOST_WORDS, len(words))))
    return {"prompt": f"say: {said}", "answer": f"{said}.", "split": "train"}
