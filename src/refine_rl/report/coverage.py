"""How the prompts of a run are spread over their facets: the table of the terminal and of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.types import Prompt, Split, count_of

_VALUES_SHOWN = 12  # values of a facet that the terminal shows
_WIDEST = 32  # characters of a name in the terminal's table


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Prompts by facet, value and split; `whole` are the held-out prompts whose combination of facet values
    no train or validation prompt has, by combination.

    >>> said = ({"role": "user", "content": "Hi."},)
    >>> prompts = [Prompt(id=str(n), split=split, messages=said, facets={"tone": tone})
    ...            for n, (split, tone) in enumerate([("train", "calm"), ("held_out", "angry")])]
    >>> print("\\n".join(cover(prompts).lines()))
    facet  value  train  validation  held-out
    tone   calm       1           0         0
           angry      0           0         1
    1 of 1 held-out prompts has a combination of facets that no other prompt has (1 combination)
    """

    facets: Mapping[str, Mapping[str, Mapping[Split, int]]]
    held_out: int
    whole: Mapping[tuple[str, ...], int]

    def lines(self) -> list[str]:
        """The table and a line on what is held out whole; nothing without facets."""
        if not self.facets:
            return []
        rows = self.rows()
        widths = [min(_WIDEST, max(len(row[n]) for row in rows)) for n in range(5)]
        table = [
            "  ".join(
                f"{_fit(cell, width):{'<' if n < 2 else '>'}{width}}"
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        if self.whole:
            number = count_of(len(self.whole), "combination")
            held_out = sum(self.whole.values())
            table.append(
                f"{held_out} of {self.held_out} held-out prompts {'has' if held_out == 1 else 'have'} a "
                f"combination of facets that no other prompt has ({number})"
            )
        return table

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The cells of the table, the headings first; a facet's name stands in the first of its rows."""
        rows = [("facet", "value", "train", "validation", "held-out")]
        for facet, values in self.facets.items():
            name = facet
            for value, counts in list(values.items())[:_VALUES_SHOWN]:
                train, validation, held_out = map(str, by_split(counts))
                rows.append((name, value, train, validation, held_out))
                name = ""
            if len(values) > _VALUES_SHOWN:
                rows.append(("", f"and {len(values) - _VALUES_SHOWN} more", "", "", ""))
        return rows


def by_split(counts: Mapping[Split, int]) -> tuple[int, int, int]:
    """Numbers of train, validation and held-out prompts."""
    return counts.get("train", 0), counts.get("validation", 0), counts.get("held_out", 0)


def cover(prompts: Sequence[Prompt]) -> Coverage:
    """The coverage of these prompts; facets in the order in which they come, frequent values first."""
    counts: dict[str, dict[str, Counter[Split]]] = {}
    for prompt in prompts:
        for facet, value in prompt.facets.items():
            counts.setdefault(facet, {}).setdefault(value, Counter())[prompt.split] += 1
    facets = {
        facet: dict(sorted(values.items(), key=lambda item: -item[1].total()))
        for facet, values in counts.items()
    }
    held_out = [p for p in prompts if p.split == "held_out"]
    seen = {frozenset(p.facets.items()) for p in prompts if p.split != "held_out"}
    whole = Counter(
        tuple(f"{facet}: {p.facets[facet]}" for facet in counts if facet in p.facets)
        for p in held_out
        if p.facets and frozenset(p.facets.items()) not in seen
    )
    return Coverage(
        facets=facets,
        held_out=len(held_out),
        whole=whole,
    )


def _fit(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
