"""Which of the groups that were sampled are scored: the most diverse ones.

Sampling costs a machine's time, a judge costs money; and a group teaches by the differences of its answers.
So more groups are sampled than are scored, and those are scored whose answers differ most:

    number of distinct texts + 0.001 sum over pairs of members (1 - J),

J being the Jaccard index (shared over all) of the pair's words and neighbouring words. A group whose answers
are one text would earn one reward, and is not scored. No kind of prompt gets more than its share of what was
sampled, as long as the others have groups of several texts.

Which groups these are follows from their texts alone: a step that is sampled again has the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import ceil

from refine_rl.types import Prompt, Trajectory

APART = 0.001
"""What a pair of answers without a common word counts, in distinct texts."""


def diversity(texts: Sequence[str]) -> float:
    """
    >>> diversity(["a b", "a b", "a c"])  # 2 texts; {a, b, a b} and {a, c, a c} share 1 of 5, twice
    2.0016
    """
    shingles = [_shingles(text) for text in texts]
    return len({*texts}) + APART * sum(1 - _jaccard(a, b) for a, b in combinations(shingles, 2))


def _shingles(text: str) -> set[object]:
    """Its words and pairs of neighbouring words, in small letters."""
    words = text.lower().split()
    return {*words, *pairwise(words)}


def _jaccard(a: set[object], b: set[object]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def alike(diversity: float) -> bool:
    """Whether a group of this diversity is of one text.

    >>> alike(diversity(["yes", "yes"])), alike(diversity(["yes", "no"]))
    (True, False)
    """
    return diversity < 2


def chosen(diversities: Sequence[float], prompts: Sequence[Prompt], count: int) -> list[int]:
    """The places of the `count` most diverse groups in their order; the first among equals. Groups of one
    text are left out, so that there may be fewer; where all are, the first stays: a step has a group.

    Long answers differ more than short ones, whatever they are worth. So each value of a facet gets at most
    its share of what was sampled, rounded up; what is then left open goes to the most diverse of the others.

    >>> plain = [Prompt(id=str(n), split="train", messages=()) for n in range(5)]
    >>> chosen([2.0, 8.1, 1.0, 8.1, 3.0], plain, 3), chosen([1.0, 1.0], plain[:2], 2)
    ([1, 3, 4], [0])
    >>> kinds = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    >>> of = [Prompt(id=i, split="train", messages=(), facets={"kind": kind}) for i, kind in kinds.items()]
    >>> chosen([8.1, 8.0, 3.0, 2.0], of, 2), chosen([8.1, 8.0, 3.0, 1.0], of, 4)
    ([0, 2], [0, 1, 2])
    """
    open_to = {value: ceil(count * n / len(prompts)) for value, n in facets(prompts).items()}
    best: list[int] = []
    passed: list[int] = []
    for place in sorted(range(len(prompts)), key=lambda place: -diversities[place]):
        if alike(diversities[place]):
            continue
        values = facets([prompts[place]])
        if len(best) == count or any(open_to[value] == 0 for value in values):
            passed.append(place)
            continue
        best.append(place)
        for value in values:
            open_to[value] -= 1
    return sorted([*best, *passed[: count - len(best)]]) or [0]


def diversities(groups: Sequence[Sequence[Trajectory]]) -> list[float]:
    """Of groups, by all that the policy said in them."""
    return [diversity([t.said for t in group]) for group in groups]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The prompts of which a step sampled groups, in their order; how diverse these were, and the ids of
    those that were scored."""

    prompts: Sequence[Prompt]
    diversity: Sequence[float]
    scored: frozenset[str]

    def metrics(self) -> dict[str, object]:
        """Its part of StepMetrics."""
        scored = [p for p in self.prompts if p.id in self.scored]
        return {
            "groups_sampled": len(self.prompts),
            "groups_alike": sum(map(alike, self.diversity)),
            "facets_sampled": (sampled := facets(self.prompts)),
            "facets_scored": {name: facets(scored).get(name, 0) for name in sampled},
        }


def facets(prompts: Sequence[Prompt]) -> Mapping[str, int]:
    """How many prompts have each value of a facet.

    >>> a = Prompt(id="a", split="train", messages=(), facets={"tone": "dry"})
    >>> facets([a, a])
    {'tone = dry': 2}
    """
    return dict(
        sorted(Counter(f"{name} = {value}" for p in prompts for name, value in p.facets.items()).items())
    )
