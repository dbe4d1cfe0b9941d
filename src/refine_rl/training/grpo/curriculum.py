"""The curriculum: each step's prompts are drawn by what they promise (promise.py).

Prompts are drawn without replacement with probabilities in proportion to p ** SHARPNESS, p the promise (by
Gumbel's trick). Those that are as good as sure to differ come the most often, the unknown as often as prompts
like them turn out to be worth it, and those that were always or never solved hardly, until what was seen of
them is forgotten. A prompt that came lately comes less: each of its turns costs TIRES in the logarithm of
that, halved every FRESH_AGAIN steps, so that a few prompts are not learnt by heart; and none comes in two
steps running where there are others.

One prompt in PLAIN is drawn in turn from passes over the whole pool, whatever it promises. Training on some
kinds of prompts can spoil what the policy knew of others; without these it would be noticed only when what
was seen of those others is forgotten, which is too late to mend it.

Choosing by a posterior of each prompt's success rate that forgets is the idea of MoPPS (arXiv 2507.04632).
Left out here: its target for the rate, and the limit to rewards of 0 and 1. Added: what prompts that were
never tried promise, by their facets.

All of it is a function of the groups on record. What was worked out of them is kept from step to step only to
save time: a resumed run works it out again, and draws the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from refine_rl.randomness import generator
from refine_rl.training.grpo.pool import Chosen, Drawn, Seen
from refine_rl.training.grpo.promise import Memories
from refine_rl.types import Prompt

SHARPNESS = 4
PLAIN = 8
PROMISING = 0.5  # what promises as much is called so
SUREST = 0.9  # beyond it, and below 1 - SUREST, all are alike to the draw
TIRES = 1.0
FRESH_AGAIN = 16  # steps


@dataclass(kw_only=True)
class Curriculum:
    """Of `per_step` prompts, each for a group of `size` answers. `top` is the highest reward there is; None
    where none means "solved"."""

    prompts: Sequence[Prompt]
    per_step: int
    size: int
    seed: int
    top: float | None = None
    _memories: Memories = field(init=False)
    _taken: int = 0  # of the record's groups, with their rewards
    _known: int = -1
    _turns: dict[str, tuple[int, float]] = field(default_factory=dict)  # the last one's step, and how many
    _counted: int = 0  # of the record's groups, as turns
    _step: int = 0

    def __post_init__(self) -> None:
        if len(self.prompts) < self.per_step:
            raise ValueError(f"{self.per_step} prompts a step from a pool of {len(self.prompts)}")
        self._memories = Memories(size=self.size)

    def of_step(self, step: int, seen: Sequence[Seen], known: int, under_way: Collection[str] = ()) -> Chosen:
        """The prompts of `step`. `seen` are the groups so far, in the order of their steps, of which the
        rewards up to step `known` are; `under_way` the ids of the prompts of the step before, where it is
        still being scored."""
        promises = self._promises(step, seen, known)
        turns, just = self._recent(step, seen, under_way), {*under_way, *self._of(step - 1, seen)}
        plain = [p for p in self._plain(step) if p.id not in just]
        left = {name: p for name, p in promises.items() if name not in {p.id for p in plain}}
        count = self.per_step - len(plain)
        drawn = [*plain, *self._drawn(left, turns, count, step=step, wave=0, last=just)]
        return Chosen(
            prompts=tuple(drawn),
            aside=(),
            back=(),
            drawn=Drawn(
                promised={p.id: promises[p.id] for p in drawn},
                pool=Counter(self._state(p, promises[p.id]) for p in self.prompts),
            ),
        )

    def others(
        self, step: int, seen: Sequence[Seen], count: int, wave: int, used: Collection[str]
    ) -> list[Prompt]:
        """Up to `count` more prompts of a step, none of those whose ids are `used`."""
        promises = self._promises(step, seen, step - 1)
        left = {name: p for name, p in promises.items() if name not in used}
        turns, just = self._recent(step, seen, ()), self._of(step - 1, seen)
        return self._drawn(left, turns, count, step=step, wave=wave, last=just)

    def _promises(self, step: int, seen: Sequence[Seen], known: int) -> dict[str, float]:
        if known < self._known or len(seen) < self._taken:
            self._memories, self._taken = Memories(size=self.size), 0
        while self._taken < len(seen) and seen[self._taken].step <= known:
            self._memories.add(seen[self._taken])
            self._taken += 1
        self._known = known
        found = self._memories.promises(self.prompts, step)
        return {prompt.id: promised for prompt, promised in zip(self.prompts, found, strict=True)}

    def _recent(self, step: int, seen: Sequence[Seen], under_way: Collection[str]) -> dict[str, float]:
        """The turns of each prompt before `step`, halved every FRESH_AGAIN steps; those of the step before
        count in full."""
        if step < self._step or len(seen) < self._counted:
            self._turns, self._counted = {}, 0
        self._step = step
        while self._counted < len(seen) and seen[self._counted].step < step:
            group = seen[self._counted]
            self._counted += 1
            if group.step > 0:  # a probe is no turn
                last, turns = self._turns.get(group.prompt_id, (group.step, 0.0))
                self._turns[group.prompt_id] = (group.step, 1 + turns * _fresh(group.step - last))
        found = {name: turns * _fresh(step - 1 - last) for name, (last, turns) in self._turns.items()}
        return {**found, **{name: found.get(name, 0.0) + 1 for name in under_way}}

    def _drawn(
        self,
        promises: Mapping[str, float],
        turns: Mapping[str, float],
        count: int,
        *,
        step: int,
        wave: int,
        last: Collection[str],
    ) -> list[Prompt]:
        """Of the prompts that `promises` has; those of `last` only where no others are left."""
        chance = generator(self.seed, "curriculum", step, wave).gumbel(size=len(self.prompts))
        able = []
        for place, (prompt, luck) in enumerate(zip(self.prompts, chance, strict=True)):
            if prompt.id in promises:
                p = min(SUREST, max(1 - SUREST, promises[prompt.id]))
                worth = SHARPNESS * math.log(p) - TIRES * turns.get(prompt.id, 0.0)
                able.append((prompt.id in last, -(worth + luck), place))
        return [self.prompts[place] for _, _, place in sorted(able)[:count]]

    def _plain(self, step: int) -> list[Prompt]:
        """Those that `step` takes in turn: each pass over the pool has an order of its own."""
        first, behind = (done * self.per_step // PLAIN for done in (step - 1, step))
        found = {}  # once, where one pass ends with it and the next begins with it
        for place in range(first, behind):
            which_pass, at = divmod(place, len(self.prompts))
            order = generator(self.seed, "curriculum", "pass", which_pass).permutation(len(self.prompts))
            prompt = self.prompts[order[at]]
            found[prompt.id] = prompt
        return [*found.values()]

    def _of(self, step: int, seen: Sequence[Seen]) -> set[str]:
        """The ids of the prompts of `step` on record."""
        found: set[str] = set()
        for group in reversed(seen):
            if group.step < step:
                break
            if group.step == step > 0:
                found.add(group.prompt_id)
        return found

    def _state(self, prompt: Prompt, promised: float) -> str:
        """What is thought of a prompt, in a word."""
        memory = self._memories.of.get(prompt.id)
        if memory is None:
            return "new"
        if promised >= PROMISING:
            return "promising"
        if self.top is None:
            return "alike"
        return "easy" if memory.mean() >= self.top / 2 else "hard"


def _fresh(steps: int) -> float:
    """What a turn still counts after so many steps."""
    return float(0.5 ** (steps / FRESH_AGAIN))
