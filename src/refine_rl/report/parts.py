"""The evidence by facet, and whether answers depend on the prompt: what the page shows below the verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.evaluate.variety import openings_text
from refine_rl.evaluate.verdict import HOLDS_FROM
from refine_rl.report.data import GLUE, VALUES_SHOWN, share
from refine_rl.report.standing import Json
from refine_rl.run import RunFolder
from refine_rl.types import MIN_PROMPTS, Comparison, Part, decimals, one_line

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_COMBINATIONS = {
    "seen": "combinations that training had",
    "unseen": "combinations held out whole",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table by facet. `intervals` says whether there are prompts enough for any, `few` that
    there are not many."""

    label: str
    part: Part

    @property
    def intervals(self) -> bool:
        return self.part.prompts >= MIN_PROMPTS

    @property
    def few(self) -> bool:
        return self.part.prompts < HOLDS_FROM


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A facet with its most frequent values in their order, and how many values are not shown."""

    title: str
    rows: tuple[Row, ...]
    left_out: int = 0


def by_facet(comparison: Comparison) -> list[Block]:
    """The rewards by facet and value, and on combinations of facets that training had and had not."""
    blocks = [
        Block(
            title=facet,
            rows=tuple(Row(label=v, part=part) for v, part in in_order(values, VALUES_SHOWN)),
            left_out=max(0, len(values) - VALUES_SHOWN),
        )
        for facet, values in comparison.facets.items()
    ]
    together = comparison.combinations
    rows = tuple(Row(label=text, part=together[n]) for n, text in _COMBINATIONS.items() if n in together)
    return [*([Block(title="all facets together", rows=rows)] if rows else []), *blocks]


def in_order(values: Mapping[str, Part], most: int) -> list[tuple[str, Part]]:
    """The `most` first of a facet's values (on record the most frequent come first); as numbers go where all
    of them are numbers.

    >>> from refine_rl.types import Estimate
    >>> part = Part(prompts=1, base=(e := Estimate(mean=0, ci95=(0, 0))), tuned=e, difference=e)
    >>> [value for value, _ in in_order({"10": part, "9": part, "-1.5": part}, 2)]
    ['9', '10']
    >>> [value for value, _ in in_order({"10": part, "9": part, "few": part}, 2)]
    ['10', '9']
    """
    shown = list(values.items())[:most]
    if not all(_NUMBER.fullmatch(value) for value in values):
        return shown
    return sorted(shown, key=lambda item: float(item[0]))


def variety(comparison: Comparison) -> list[str]:
    """How many answers of each side belong to one prompt alone, and how those of several prompts begin;
    nothing where that is not known."""
    return [
        f"{name}, {kind}: {share(found.distinct_share)}."
        + (f" Most frequent openings: {_openings(found.openings)}." if found.openings else "")
        for kind, end in (("sampled answers", ""), ("greedy answers", "_greedy"))
        for side, name in (("base", "base"), ("tuned", "tuned"))
        if (found := comparison.variety.get(f"{side}{end}")) and found.distinct_share is not None
    ]


def openings(metrics: Sequence[Json]) -> list[tuple[int, str]]:
    """The most frequent openings of the answers at a few steps, the first and the last among them."""
    told = [(m["step"], m["openings"]) for m in metrics if m.get("openings")]
    stride = max(1, (len(told) - 1) // 5)
    chosen = told[::stride] if len(told) < 2 or (len(told) - 1) % stride == 0 else [*told[::stride], told[-1]]
    return [(step, _openings(found)) for step, found in chosen]


def _openings(found: Mapping[str, float]) -> str:
    return openings_text(found.items()).replace(" %)", f"{GLUE}%)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """An answer to look at, with both values: what its prompt had before training, and what it has."""

    prompt: str
    answer: str
    reward: str
    eye: str


def gains(run: RunFolder) -> tuple[int, list[Gain]]:
    """The step of the newest look of another eye that names answers, and these: reward gained, the eye's
    value lost."""
    looks = [line for line in run.validation() if line.get("eye", {}).get("gains")]
    if not looks:
        return 0, []
    asked = {p.id: p.text for p in run.prompts()}
    found = [
        Gain(
            prompt=asked.get(one["prompt_id"], one["prompt_id"]),
            answer=one_line(one["answer"], most=600) or "(nothing)",
            reward=f"{decimals(one['reward_before'])} → {decimals(one['reward'])}",
            eye=f"{decimals(one['eye_before'])} → {decimals(one['eye'])}",
        )
        for one in looks[-1]["eye"]["gains"]
    ]
    return looks[-1]["step"], found
