"""The task of the recipe on real code, for whoever reaches the hub: CodeXGLUE's code-to-text, Python (about
251,000 functions of CodeSearchNet to train on, 13,000 to validate, 15,000 held out).

`task_base.toml` takes its pairs and prompts from here. A function is read as CodeXGLUE's own baseline reads
it: `code_tokens`, put together with spaces. The column `code` still has the docstring in it: a model that
learnt from that would learn to copy.
"""

from __future__ import annotations

import random
from typing import Any

DATA_SET = ("google/code_x_glue_ct_code_to_text", "python")
SPLITS = {"train": "train", "validation": "validation", "held_out": "test"}
MOST = {"code_tokens": 256, "docstring_tokens": 64}
"""Longer ones are left out."""


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """`count` functions of the data set's `train` and their docstrings, in an order of the seed."""
    rows = _rows("train", count, seed)
    return [{"prompt": _text(row, "code_tokens"), "answer": _text(row, "docstring_tokens")} for row in rows]


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` functions of a split; held-out ones are of the data set's `test`."""
    return [
        {
            "prompt": _text(row, "code_tokens"),
            "data": {
                "reference": _text(row, "docstring_tokens"),
                "name": row["func_name"],
                "parameters": _parameters(row["code_tokens"]),
                "returns": bool({"return", "yield"} & set(row["code_tokens"])),
            },
        }
        for row in _rows(SPLITS[split], count, seed)
    ]


def _rows(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    from datasets import load_dataset

    rows = load_dataset(*DATA_SET, split=split)
    places = list(range(len(rows)))
    random.Random(f"codexglue/{split}/{seed}").shuffle(places)
    found: list[dict[str, Any]] = []
    for place in places:
        if len(found) == count:
            break
        row = rows[place]
        if all(0 < len(row[column]) <= most for column, most in MOST.items()):
            found.append(row)
    return found


def _text(row: dict[str, Any], column: str) -> str:
    return " ".join(" ".join(row[column]).split())


def _parameters(tokens: list[str]) -> list[str]:
    """The names between the brackets of the header, `self` apart.

    >>> _parameters("def f ( self , a , b : int = g ( 1 ) , * rest ) : return a".split())
    ['a', 'b', 'rest']
    """
    depth, names, expected = 0, [], True
    for token in tokens:
        if token in ("(", "[", "{"):
            depth += 1
        elif token in (")", "]", "}"):
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and token == ",":
            expected = True
        elif depth == 1 and expected and token.isidentifier():
            names.append(token)
            expected = False
    return [name for name in names if name not in ("self", "cls")]
