"""What the prompts of a task vary in, and which combinations get how many prompts.

The writer reads the task and names facets with their values, or the settings fix them. The combinations
are a covering of pairs: any two values of two facets stand together about equally often, so that a few
dozen prompts show every value in varied company.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from refine_rl.llm.schemas import listed
from refine_rl.llm.structured import Unusable
from refine_rl.randomness import generator

Facets = Mapping[str, Sequence[str]]
"""Name -> values, both in the order in which they were given."""
Combination = tuple[str, ...]
"""A value of each facet, in the facets' order."""

FEWEST, MOST = 3, 6  # facets that a writer names
FEWEST_VALUES, MOST_VALUES = 2, 8
_LONGEST = 80  # characters of a name or a value
_STARTS = 4  # random starts of the search for one combination
_TEXT = {"type": "string"}
FORM = listed("facets", {"name": _TEXT, "values": {"type": "array", "items": _TEXT}})


def read_facets(value: Any) -> Facets:
    """Facets from the writer's reply, 3 to 6 with 2 to 8 values each; raises Unusable that names every fault.

    >>> read_facets({"facets": [{"name": f"f{i}", "values": ["a", "b "]} for i in range(3)]})["f2"]
    ('a', 'b')
    """
    listed = value.get("facets") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise Unusable('There is no list "facets" in the reply.')
    found: dict[str, tuple[str, ...]] = {}
    problems = []
    if not FEWEST <= len(listed) <= MOST:
        problems.append(f"There are {len(listed)} facets; give {FEWEST} to {MOST}.")
    for number, facet in enumerate(listed, 1):
        name = _line(facet.get("name")) if isinstance(facet, dict) else None
        values = facet.get("values") if isinstance(facet, dict) else None
        if not name or not isinstance(values, list):
            problems.append(f'Facet {number} needs a "name" and a list "values" of texts.')
            continue
        lines = [_line(v) for v in values]
        texts = tuple(line for line in lines if line)
        if len(texts) < len(lines):
            problems.append(
                f"Facet {name!r} has a value that is empty, no text or too long (one short line)."
            )
        elif len({t.casefold() for t in texts}) < len(texts):
            problems.append(f"Facet {name!r} has the same value twice.")
        elif not FEWEST_VALUES <= len(texts) <= MOST_VALUES:
            problems.append(f"Facet {name!r} has {len(texts)} values; give {FEWEST_VALUES} to {MOST_VALUES}.")
        elif name.casefold() in {n.casefold() for n in found}:
            problems.append(f"Facet {name!r} is there twice.")
        found[name] = texts
    if problems:
        raise Unusable(" ".join(problems))
    return found


def _line(value: object) -> str | None:
    """The text without white space around and doubled inside it; None where it cannot serve."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if 0 < len(text) <= _LONGEST and text.isprintable() else None


class Covering:
    """Chooses one combination after the other, each so that pairs of values are spread evenly.

    A combination is found by a search that changes one value at a time, from a few random starts: it
    minimises how far its pairs are ahead of the rarest pair of their two facets, then the same for its
    single values. So a value that has not been used comes before any that has, and after as many
    combinations as the largest facet has values, all values were used. What is chosen depends on the
    facets, the seed, and what was chosen before.
    """

    def __init__(self, facets: Facets, seed: int) -> None:
        self._values = [tuple(v) for v in facets.values()]
        self._sizes = [len(v) for v in self._values]
        self._draws = generator(seed, "covering", *(f"{n}={v}" for n, vs in facets.items() for v in vs))
        self._singles = [np.zeros(n, dtype=np.int64) for n in self._sizes]
        pairs = combinations(range(len(self._sizes)), 2)
        self._pairs = {(a, b): np.zeros((self._sizes[a], self._sizes[b]), dtype=np.int64) for a, b in pairs}
        self._used: Counter[tuple[int, ...]] = Counter()

    def choose(self, *, besides: AbstractSet[Combination] = frozenset()) -> Combination:
        """The next combination, none of `besides` where there is another."""
        ahead = self._how_far_ahead()
        without = {tuple(v.index(x) for v, x in zip(self._values, c, strict=True)) for c in besides}
        rows = [self._search(ahead, without) for _ in range(_STARTS)]
        row = min(rows, key=lambda r: (r in without, self._cost(r, ahead), self._used[r]))
        if row in without and prod(self._sizes) > len(without):
            row = next(r for r in np.ndindex(*self._sizes) if r not in without)
        for a, number in enumerate(row):
            self._singles[a][number] += 1
        for (a, b), table in self._pairs.items():
            table[row[a], row[b]] += 1
        self._used[row] += 1
        return tuple(v[number] for v, number in zip(self._values, row, strict=True))

    def _how_far_ahead(self) -> dict[tuple[int, ...], np.ndarray]:
        """Counts less the smallest of their table; pairs outweigh all single values together."""
        ahead: dict[tuple[int, ...], np.ndarray] = {(a,): s - s.min() for a, s in enumerate(self._singles)}
        weight = 1 + sum(int(table.max()) for table in ahead.values())
        for (a, b), table in self._pairs.items():
            ahead[a, b] = weight * (table - table.min())
            ahead[b, a] = ahead[a, b].T
        return ahead

    def _search(
        self, ahead: Mapping[tuple[int, ...], np.ndarray], without: AbstractSet[tuple[int, ...]]
    ) -> tuple[int, ...]:
        row = [int(self._draws.integers(size)) for size in self._sizes]
        changed = True
        while changed:
            changed = False
            for a in self._draws.permutation(len(row)):
                costs = ahead[a,] + sum(ahead[a, b][:, row[b]] for b in range(len(row)) if b != a)
                penalty = int(costs.max()) + 1
                for number in range(self._sizes[a]) if without else ():
                    if (*row[:a], number, *row[a + 1 :]) in without:
                        costs[number] += penalty
                if costs.min() < costs[row[a]]:
                    least = np.flatnonzero(costs == costs.min())
                    row[a] = int(self._draws.choice(least))
                    changed = True
        return tuple(row)

    def _cost(self, row: tuple[int, ...], ahead: Mapping[tuple[int, ...], np.ndarray]) -> int:
        singles = sum(int(ahead[a,][number]) for a, number in enumerate(row))
        return singles + sum(int(ahead[a, b][row[a], row[b]]) for a, b in self._pairs)


def whole_combinations(facets: Facets, count: int, seed: int) -> list[Combination]:
    """Up to `count` combinations to be held out whole: no training prompt will have one.

    Of any value at most half of its combinations are given away, so that training still meets every
    value; with a single facet there are none.
    """
    every = prod(len(v) for v in facets.values())
    covering = Covering(facets, seed)
    taken: list[Combination] = []
    uses: Counter[tuple[int, str]] = Counter()
    for _ in range(2 * count):  # a combination that cannot be given away costs a try
        combination = covering.choose(besides=frozenset(taken))
        places = list(enumerate(combination))
        room = [every // len(v) for v in facets.values()]  # combinations that a value of each facet is in
        if all(2 * (uses[p] + 1) <= room[p[0]] for p in places):
            taken.append(combination)
            uses.update(places)
        if len(taken) == count:
            break
    return taken
