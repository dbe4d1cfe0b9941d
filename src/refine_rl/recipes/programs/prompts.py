"""Prompts of the recipe `programs`: functions to write, each with the assertions that its code is run
against."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

_grammar = runpy.run_path(str(Path(__file__).with_name("grammar.py")))
SPLITS = _grammar["SPLITS"]
ASSERTIONS = 6


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different requests of a split; the same ones for the same seed. `data` has the `tests`."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    rng = random.Random(f"programs/{split}/{seed}")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        function = _grammar["draw_function"](rng, split)
        if function.request not in found:
            found[function.request] = {
                "prompt": function.request,
                "facets": {"make": function.make},
                "data": {"tests": tests(rng, function)},
            }
    return list(found.values())


def tests(rng: random.Random, function: Any) -> str:
    """Assertions about a function: no list at all, one of the edges (the bound itself, 0, its neighbours,
    twice), and lists by chance."""
    space: dict[str, Any] = {}
    exec(function.code, space)  # noqa: S102 - the grammar's own
    k = function.k
    edges = [k, 0, k + 1, -k, k - 1, k, 2 * k]
    rng.shuffle(edges)
    lists = [[], edges]
    lists += [[rng.randint(-12, 12) for _ in range(rng.randint(3, 8))] for _ in range(ASSERTIONS - 2)]
    return "\n".join(f"assert f({xs}) == {space['f'](xs)}" for xs in lists)
