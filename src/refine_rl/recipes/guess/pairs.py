"""Games for supervised fine-tuning, all of a player who never contradicts an answer and has no plan: it takes
any of the numbers that are left.

It solves about six games of ten. Who always takes the middle one solves all of them, and that is never shown.
"""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_prompts = runpy.run_path(str(_HERE / "prompts.py"))
_world = runpy.run_path(str(_HERE / "world.py"))


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` games in ranges of training; the same ones for the same seed."""
    rng = random.Random(f"guess/pairs/{seed}")
    ranges = _prompts["ranges"]("train")
    return [{"messages": game(rng, *rng.choice(ranges))} for _ in range(count)]


def game(rng: random.Random, low: int, high: int) -> list[dict[str, str]]:
    """A game of the player, up to its last guess."""
    world = _world["Guess"]()
    world.start({"low": low, "high": high}, rng.getrandbits(32))
    asked = rng.choice(_prompts["FORMS"]).format(low=low, high=high)
    messages = [{"role": "user", "content": asked}]
    while True:
        guess = rng.randint(low, high)
        messages.append({"role": "assistant", "content": str(guess)})
        said, _, done = world.step(str(guess))
        if done:
            return messages
        messages.append({"role": "user", "content": said})
        low, high = (guess + 1, high) if said == "higher" else (low, guess - 1)
