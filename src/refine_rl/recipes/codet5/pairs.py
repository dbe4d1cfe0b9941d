"""Examples of the recipe `codet5`, for supervised fine-tuning: functions of training (`grammar.py`), with
docstrings of mixed quality, as they are found in real code.

A model that imitates them knows what functions do, and mostly does not write good docstrings: that is left
to GRPO.
"""

from __future__ import annotations

import random
import re
import runpy
from pathlib import Path

_grammar = runpy.run_path(str(Path(__file__).with_name("grammar.py")))

QUALITIES = {
    "good": 0.20,
    "plain": 0.40,  # names no parameter
    "vague": 0.13,  # would fit any function
    "short": 0.10,  # cut after one to three words
    "repeated": 0.06,  # says something again
    "wrong": 0.06,  # names a parameter that does not exist
    "long": 0.05,  # goes on about other things
}
"""Shares of the docstrings."""


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """`count` functions of training and a docstring of each; the same ones for the same seed."""
    rng = random.Random(f"codet5/pairs/{seed}")
    rows = []
    for quality in rng.choices(list(QUALITIES), list(QUALITIES.values()), k=count):
        function = _grammar["draw_function"](rng)
        rows.append({"prompt": function.code, "answer": degrade(rng, function.docstring, quality)})
    return rows


def degrade(rng: random.Random, docstring: str, quality: str) -> str:
    """A docstring of one of the `QUALITIES`, made of a good one."""
    poor = _grammar["data"]("functions")["poor"]
    if quality == "plain":
        return re.sub(r"(the )?`\w+`", "the given value", docstring)
    if quality == "vague":
        return str(rng.choice(poor["vague"]))
    if quality == "short":
        words = docstring.rstrip(".").replace("`", "").split()
        return " ".join(words[: rng.choice((1, 2, 3))]).rstrip(",") + "."
    if quality == "repeated":
        return _stammered(rng, docstring)
    if quality == "wrong" and (named := re.findall(r"`\w+`", docstring)):
        return docstring.replace(rng.choice(named), f"`{_grammar['random_name'](rng)}`")
    if quality == "long":
        return f"{docstring} {rng.choice(poor['long'])}"
    return docstring


def _stammered(rng: random.Random, text: str) -> str:
    if rng.random() < 0.5:
        return f"{text} {text}"
    words = text.rstrip(".").split()
    length = rng.randint(2, 4)
    start = rng.randrange(max(1, len(words) - length))
    end = start + length
    again = words[start:end] * rng.randint(1, 3)
    return " ".join([*words[:end], *again, *words[end:]]) + "."
