"""The table of what the prompts cover."""

from __future__ import annotations

import make
from refine_rl.report.coverage import cover
from refine_rl.types import Prompt, Split


def prompt(split: Split, **facets: str) -> Prompt:
    return make.prompt("p", split=split, facets=facets)


def test_counts_by_facet_value_and_split() -> None:
    found = cover(
        [
            prompt("train", tone="calm", topic="tea"),
            prompt("train", tone="angry", topic="tea"),
            prompt("train", topic="rain", tone="angry"),
            prompt("validation", tone="angry", topic="tea"),
            prompt("held_out", tone="angry", topic="tea"),
            prompt("held_out", tone="calm", topic="rain"),
            prompt("held_out", topic="rain", tone="calm"),
        ]
    )
    assert found.facets == {
        "tone": {
            "angry": {"train": 2, "validation": 1, "held_out": 1},
            "calm": {"train": 1, "held_out": 2},
        },
        "topic": {
            "tea": {"train": 2, "validation": 1, "held_out": 1},
            "rain": {"train": 1, "held_out": 2},
        },
    }
    assert (found.held_out, found.whole) == (3, {("tone: calm", "topic: rain"): 2})
    assert found.lines() == [
        "facet  value  train  validation  held-out",
        "tone   angry      2           1         1",
        "       calm       1           0         2",
        "topic  tea        2           1         1",
        "       rain       1           0         2",
        "2 of 3 held-out prompts have a combination of facets that no other prompt has (1 combination)",
    ]


def test_prompts_without_facets_have_no_table_and_are_no_combination() -> None:
    found = cover([prompt("train"), prompt("held_out")])
    assert (found.lines(), found.whole, found.held_out) == ([], {}, 1)
    mixed = cover([prompt("train", tone="calm"), prompt("held_out"), prompt("held_out", tone="calm")])
    assert mixed.whole == {}


def test_long_names_and_many_values_are_cut() -> None:
    rows = [prompt("train", topic=f"t{n:02d}") for n in range(14)]
    lines = cover([*rows, prompt("train", topic="t13"), prompt("train", name="x" * 40 + "\ny")]).lines()
    assert lines[1] == f"topic  {'t13':<32}      2           0         0"
    assert lines[2] == f"       {'t00':<32}      1           0         0"
    assert lines[12] == f"       {'t10':<32}      1           0         0"
    assert lines[13] == "       and 2 more"
    assert lines[14] == f"name   {'x' * 31}…      1           0         0"
