"""Prompts of the recipe `codet5`: small functions to describe, from `grammar.py`.

They are what GRPO trains and is compared on; a held-out one does what no function of training does.
"""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

_grammar = runpy.run_path(str(Path(__file__).with_name("grammar.py")))
SPLITS = _grammar["SPLITS"]


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different functions of a split; the same ones for the same seed.

    `data` has the `reference` docstring, the function's `name`, its `parameters`, and whether it `returns`
    something.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    rng = random.Random(f"codet5/{split}/{seed}")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        function = _grammar["draw_function"](rng, split)
        found[function.code] = {
            "prompt": function.code,
            "facets": {"family": function.family},
            "data": {
                "reference": function.docstring,
                "name": function.name,
                "parameters": list(function.parameters),
                "returns": function.returns,
            },
        }
    return list(found.values())
