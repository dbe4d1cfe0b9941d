"""What a prompt promises: the probability that the rewards of its next group will differ.

The answers of a prompt are drawn from an urn (Blackwell and MacQueen 1973): of n remembered rewards, v have a
certain value; the next one has it with probability v / (n + c), and none of those seen so far with
c / (n + c). So a group of G is flat, all at this value, with probability

    prod_{0 <= i < G} (v + i) / (n + c + i)

(with rewards of 0 and 1 the beta-binomial distribution), and the promise is 1 minus the sum of these and
that of a group that is all at one value not seen so far. Any rewards will do, not only 0 and 1.

- Forgetting: the policy moves on, and with every `HALF_LIFE` steps the chance halves that what was seen of a
  prompt still holds; otherwise it promises what it would without evidence. So what was always or never solved
  comes to promise more. And a group is what its prompt is trained on: with each, what was seen before counts
  less (`KEPT`).
- A prompt without evidence promises what prompts like it did: naive Bayes over the facets, on the last group
  of each prompt. c is such that a prompt without evidence promises just that.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from refine_rl.training.grpo.pool import Seen
from refine_rl.types import Prompt, same_value

HALF_LIFE = 8  # steps
KEPT = 0.5  # of the weight of a prompt's older groups, at each new one
LEAST = 0.02  # no prompt promises less by its facets alone, nor more than 1 - LEAST
FORGOTTEN = 0.01  # a reward that weighs less is dropped
START = 0.25  # from which the counts of a facet's value start: after two groups they speak for themselves


def promise(weights: Iterable[float], unseen: float, size: int) -> float:
    """The probability that a group of `size` answers differs, where the values remembered have these
    `weights`, and `unseen` is that of all others (c above).

    >>> promise([8.0], 0.0, 8), promise([1.0, 1.0], 0.0, 2)
    (0.0, 0.33333333333333337)
    """
    known = [*weights]
    total = math.fsum(known) + unseen
    steps = range(size)
    flat = [math.prod((v + i) / (total + i) for i in steps) for v in known]
    new = math.prod((i if i else unseen) / (total + i) for i in steps) if unseen else 0.0
    return max(0.0, 1.0 - math.fsum(flat) - new)


@lru_cache(maxsize=4096)
def unseen_weight(promised: float, size: int) -> float:
    """The c with which a prompt without evidence promises this: sum_{0 < i < size} ln(1 + c / i) = -ln(1 -
    promised), by Newton's method, which comes from below as the left side is concave.

    >>> round(promise([], unseen_weight(0.3, 8), 8), 12), round(unseen_weight(0.5, 2), 12)
    (0.3, 1.0)
    """
    wanted, places = -math.log1p(-promised), range(1, size)
    c = wanted / math.fsum(1 / i for i in places)
    for _ in range(20):
        slope = math.fsum(1 / (c + i) for i in places)
        c += (wanted - math.fsum(math.log1p(c / i) for i in places)) / slope
    return c


@dataclass(kw_only=True, slots=True)
class Memory:
    """What is remembered of one prompt: the weight of each reward at `step`; whether its last group differed,
    and how much that says, where the group was smaller than those of a step."""

    step: int
    weights: dict[float, float]
    differed: bool
    says: float

    def mean(self) -> float:
        """The mean reward, by weight."""
        return math.fsum(r * w for r, w in self.weights.items()) / math.fsum(self.weights.values())


@dataclass(kw_only=True)
class Memories:
    """Of all prompts, from groups in the order of their steps. `size` is the number of answers in a group."""

    size: int
    of: dict[str, Memory] = field(default_factory=dict)

    def add(self, group: Seen) -> None:
        """One that says nothing (fewer than two scores) changes nothing."""
        flat = group.flat
        if flat is None:
            return
        old = self.of.get(group.prompt_id)
        weights = {}
        if old is not None:
            kept = KEPT * _left(group.step - old.step)
            weights = {r: w * kept for r, w in old.weights.items() if w * kept >= FORGOTTEN}
        for reward in group.values:
            known = (
                reward if reward in weights else next((r for r in weights if same_value((r, reward))), reward)
            )
            weights[known] = weights.get(known, 0.0) + 1.0
        says = min(1.0, (len(group.values) - 1) / max(1, self.size - 1)) if flat else 1.0
        self.of[group.prompt_id] = Memory(step=group.step, weights=weights, differed=not flat, says=says)

    def promises(self, prompts: Sequence[Prompt], step: int) -> list[float]:
        """What each prompt promises at `step`."""
        like = _LikeThem.of(prompts, self.of, step)
        found = []
        for prompt in prompts:
            unknown, memory = like.promise(prompt), self.of.get(prompt.id)
            if memory is None:
                found.append(unknown)
                continue
            holds = _left(step - 1 - memory.step)
            told = promise(memory.weights.values(), unseen_weight(unknown, self.size), self.size)
            found.append(holds * told + (1 - holds) * unknown)
        return found


def _left(steps: int) -> float:
    """The chance that what was seen still holds after so many steps."""
    return float(0.5 ** (steps / HALF_LIFE))


@dataclass(frozen=True, kw_only=True, slots=True)
class _LikeThem:
    """How many prompts' last groups differed and how many did not, by weight: in all, and by facet and value;
    `values` is how many values a facet has."""

    in_all: tuple[float, float]
    by_value: Mapping[tuple[str, str], tuple[float, float]]
    values: Mapping[str, int]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], memories: Mapping[str, Memory], step: int) -> _LikeThem:
        in_all = [0.0, 0.0]
        by_value: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prompt in prompts:
            memory = memories.get(prompt.id)
            pairs = [by_value[pair] for pair in prompt.facets.items()]
            if memory is None:
                continue
            weight = memory.says * _left(step - 1 - memory.step)
            for counts in (in_all, *pairs):
                counts[0 if memory.differed else 1] += weight
        return cls(
            in_all=(in_all[0], in_all[1]),
            by_value={pair: (counts[0], counts[1]) for pair, counts in by_value.items()},
            values=Counter(facet for facet, _ in by_value),
        )

    def promise(self, prompt: Prompt) -> float:
        """Of one without evidence of its own. The counts of all start from 1, those of a value from START."""
        differ, same = self.in_all
        odds = (differ + 1) / (same + 1)
        for facet, value in prompt.facets.items():
            here, number = self.by_value[facet, value], self.values[facet]
            odds *= (here[0] + START) / (differ + START * number)
            odds *= (same + START * number) / (here[1] + START)
        return min(1 - LEAST, max(LEAST, odds / (1 + odds)))
