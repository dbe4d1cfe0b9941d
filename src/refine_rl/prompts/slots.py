"""The places that a writer's prompts are to fill: for each its split and its combination of facet values.

About half of the held-out places have combinations that nobody trains on, so that the comparison also
shows whether what was learnt carries over; the others have combinations of training prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.prompts.facets import Combination, Covering, Facets, whole_combinations
from refine_rl.randomness import generator
from refine_rl.types import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A place for one prompt; `whole`: its combination is held out whole."""

    split: Split
    combination: Combination
    whole: bool = False


def plan_slots(facets: Facets, asked: Mapping[Split, int], seed: int) -> list[Slot]:
    """A slot for every prompt that is asked for, in an order by lot: a writer that runs dry before the end
    leaves all splits short alike."""
    unseen = asked["held_out"] // 2
    whole = whole_combinations(facets, unseen, seed) if unseen else []
    covering = Covering(facets, seed)
    apart = frozenset(whole)
    train = [covering.choose(besides=apart) for _ in range(asked["train"])]
    validation = [covering.choose(besides=apart) for _ in range(asked["validation"])]
    slots = [Slot(split="train", combination=c) for c in train]
    slots += [Slot(split="validation", combination=c) for c in validation]
    if not whole:
        unseen = 0
    slots += [Slot(split="held_out", combination=whole[n % len(whole)], whole=True) for n in range(unseen)]
    draws = generator(seed, "slots")
    seen = list(dict.fromkeys(train))
    order = draws.permutation(len(seen))
    slots += [
        Slot(split="held_out", combination=seen[order[n % len(seen)]])
        for n in range(asked["held_out"] - unseen)
    ]
    return [slots[n] for n in draws.permutation(len(slots))]


def instead(slot: Slot, filled: Sequence[Slot], *key: str | int) -> Slot:
    """A slot of the same kind with the combination of one of `filled`, by lot; for a combination that the
    writer cannot fill. The slot itself where none of its kind is filled yet."""
    kind = [s for s in filled if (s.split, s.whole) == (slot.split, slot.whole)]
    return kind[int(generator("instead", *key).integers(len(kind)))] if kind else slot
