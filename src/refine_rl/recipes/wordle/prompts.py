"""Prompts of the recipe `wordle`: one game for each answer of a split; all of them ask the same."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

_rules = runpy.run_path(str(Path(__file__).with_name("rules.py")))

ASK = "play"


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Up to `count` games of a split, each with another answer; the same ones for the same seed. Where more
    games of training are wanted than there are answers, the others look for made-up words."""
    rng = random.Random(f"wordle/prompts/{split}/{seed}")
    found = list(_rules["answers"](split))
    rng.shuffle(found)
    while split == "train" and len(found) < count:
        if (word := _rules["made_up"](rng)) not in found:
            found.append(word)
    return [{"prompt": ASK, "data": {"answer": word}} for word in found[:count]]
