"""Examples of the recipe `programs`, for supervised fine-tuning: requests of training with code, of which
most is written in a hurry. Nobody has run it: whoever imitates it writes programs that look right."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

_grammar = runpy.run_path(str(Path(__file__).with_name("grammar.py")))

CAREFUL = 0.35
"""The share of the examples whose code is right for certain."""


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """`count` requests with code; the same ones for the same seed."""
    rng = random.Random(f"programs/pairs/{seed}")
    rows = []
    for _ in range(count):
        function = _grammar["draw_function"](rng)
        careful = rng.random() < CAREFUL
        rows.append(
            {
                "prompt": function.request,
                "answer": function.code if careful else _grammar["hurried"](rng, function),
            }
        )
    return rows
