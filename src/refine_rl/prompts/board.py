"""The slots of a task, and what fills them so far: what a writer sent, merged in a fixed order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.prompts.candidates import Candidate, candidate
from refine_rl.prompts.curate import Dropped, Kind, excerpt, normalised
from refine_rl.prompts.facets import Facets
from refine_rl.prompts.near_duplicates import near_duplicates
from refine_rl.prompts.slots import Slot, instead
from refine_rl.randomness import generator
from refine_rl.settings import PromptSettings
from refine_rl.types import WRITER

_MISTAKES_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What came of one batch: texts for its slots, in the order of the slots, and what was refused."""

    texts: Mapping[int, str]
    read: int = 0
    rejected: tuple[Dropped, ...] = ()
    checked: bool = True
    failed: str = ""


class Board:
    """The slots, and what fills them so far."""

    def __init__(
        self, slots: Sequence[Slot], facets: Facets, prompts: PromptSettings, *, batch: int, seed: int
    ) -> None:
        self.slots = list(slots)
        self.filled: dict[int, str] = {}  # in the order in which they were filled
        self.dropped: list[Dropped] = []
        self.read = 0
        self.unchecked = 0
        self.names = tuple(facets)
        self._prompts = prompts
        self._batch = batch  # slots in one
        self._seed = seed

    def open(self) -> list[int]:
        return [n for n in range(len(self.slots)) if n not in self.filled]

    def batches(self, most: int) -> list[tuple[int, ...]]:
        """The next slots to fill, in at most so many batches."""
        size, waiting = self._batch, self.open()
        starts = range(0, min(len(waiting), most * size), size)
        return [tuple(waiting[start : start + size]) for start in starts]

    def facets_of(self, slot: int) -> dict[str, str]:
        return dict(zip(self.names, self.slots[slot].combination, strict=True))

    def merge(self, results: Sequence[Batch]) -> int:
        """Take over what is new, in order; returns how many prompts that were."""
        new = [(slot, text) for batch in results for slot, text in batch.texts.items()]
        for batch in results:
            self.read += batch.read
            self.dropped += batch.rejected
            self.unchecked += 0 if batch.checked else len(batch.texts)
        p = self._prompts
        texts = [normalised(text) for text in (*self.filled.values(), *(text for _, text in new))]
        near = near_duplicates(texts, p.near_duplicate, p.similarity)
        before = len(self.filled)
        exact = set(texts[:before])
        for index in range(before):
            near.add(index)
        for index, (slot, text) in enumerate(new, before):
            clash = near.find(index)
            kind: Kind = "duplicate"
            if texts[index] in exact:
                why = "the same as another"
            elif clash is not None:
                kind, why = "near-duplicate", f"{clash[1]:.2f} like “{excerpt(texts[clash[0]])}”"
            else:
                self.filled[slot] = text
                near.add(index)
                exact.add(texts[index])
                continue
            self.dropped.append(Dropped(origin=f"“{excerpt(text)}”", kind=kind, why=why, text=text))
        return len(self.filled) - before

    def change_open_slots(self, round_number: int) -> None:
        """Other combinations for the slots that are open: the writer seems to have nothing for these."""
        filled = [self.slots[n] for n in sorted(self.filled)]
        for n in self.open():
            self.slots[n] = instead(self.slots[n], filled, self._seed, round_number, n)

    def candidates(self, model: str) -> list[Candidate]:
        """In the order of the slots."""
        return [
            candidate(
                {"prompt": self.filled[n], "facets": self.facets_of(n), "split": self.slots[n].split},
                f"{WRITER}{model}",
            )
            for n in sorted(self.filled)
        ]

    def examples(self, like: Sequence[int], most: int, *key: str | int) -> list[str]:
        """Existing prompts by lot, those first that share most facet values with one of the slots `like`."""

        def nearness(slot: int) -> int:
            own = self.slots[slot].combination
            others = [self.slots[n].combination for n in like]
            return max((sum(a == b for a, b in zip(own, c, strict=True)) for c in others), default=0)

        known = sorted(self.filled)
        order = generator(self._seed, "examples", *key).permutation(len(known))
        chosen = sorted((known[n] for n in order), key=nearness, reverse=True)[:most]
        return [self.filled[slot] for slot in chosen]

    def blame(self) -> str:
        """What was wrong most often, as the end of a sentence."""
        return f"; what it wrote was refused: {', '.join(self.mistakes())}" if self.dropped else ""

    def mistakes(self) -> list[str]:
        """What was wrong most often so far."""
        reasons = Counter(
            {"rejected": d.why, "duplicate": "it repeats another"}.get(d.kind, "it resembles another closely")
            for d in self.dropped
        )
        return [f"{why} ({number}x)" for why, number in reasons.most_common(_MISTAKES_SHOWN)]
