"""What is kept of the candidates, and a record of what was dropped and why."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.near_duplicates import NearDuplicates
from refine_rl.types import Message, Prompt, Split

_VALUES_SHOWN = 8  # values of a facet that the terminal shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A candidate that became no prompt: `origin` says which, `why` in words what it clashed with."""

    origin: str
    kind: Literal["duplicate", "near-duplicate", "surplus"]
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CurationReport:
    """The way from the source's rows to the prompts, in numbers.

    `asked` has the numbers that the settings ask for (None: as many as there are); `facets` counts the
    prompts by facet, value and split.
    """

    source: str
    read: int
    dropped: tuple[Dropped, ...]
    splits: Mapping[Split, int]
    asked: Mapping[Split, int | None]
    facets: Mapping[str, Mapping[str, Mapping[Split, int]]]

    def count(self, kind: Literal["duplicate", "near-duplicate", "surplus"]) -> int:
        """How many candidates were dropped for this reason."""
        return sum(dropped.kind == kind for dropped in self.dropped)

    def lines(self) -> list[str]:
        """The report for the terminal."""
        return [f"{self.read} prompts read from {self.source}", *self._dropped_lines(), *self._kept_lines()]

    def _dropped_lines(self) -> Iterator[str]:
        if self.count("duplicate"):
            yield f"{self.count('duplicate')} dropped as exact duplicates"
        near = [dropped for dropped in self.dropped if dropped.kind == "near-duplicate"]
        if near:
            yield (
                f"{len(near)} dropped as near-duplicates across splits (`prompts.near_duplicate`), "
                f"such as {near[0].origin}: {near[0].why}"
            )
        if self.count("surplus"):
            yield f"{self.count('surplus')} set aside: more than the settings ask for"

    def _kept_lines(self) -> Iterator[str]:
        counts = []
        for split, count in self.splits.items():
            asked = self.asked[split]
            short = f" ({asked} asked for)" if asked is not None and count < asked else ""
            counts.append(f"{count} {split.replace('_', '-')}{short}")
        yield "kept " + ", ".join(counts)
        for name, values in self.facets.items():
            totals = Counter({value: sum(by_split.values()) for value, by_split in values.items()})
            shown = [f"{value} {count}" for value, count in totals.most_common(_VALUES_SHOWN)]
            more = f" and {len(totals) - _VALUES_SHOWN} more" if len(totals) > _VALUES_SHOWN else ""
            yield f"{name}: {', '.join(shown)}{more}"


def normalised(text: str) -> str:
    """The text without differences of case, white space and Unicode form.

    >>> normalised("Say  Hi.\\n")
    'say hi.'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def conversation(messages: Sequence[Message]) -> str:
    """What was said, without the system message, `normalised`."""
    return normalised("\n".join(m["content"] for m in messages if m["role"] != "system"))


def drop_duplicates(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    """Keep one of the candidates whose messages are the same after `normalised`.

    Of equals, one that its source puts into held_out stays, else one in validation, else one in train,
    else the first.
    """
    first: dict[tuple[tuple[str, str], ...], Candidate] = {}
    for candidate in sorted(candidates, key=_claim):
        first.setdefault(_key(candidate), candidate)
    kept = [c for c in candidates if first[_key(c)] is c]
    dropped = [
        Dropped(origin=c.origin, kind="duplicate", why=f"the same as {first[_key(c)].origin}")
        for c in candidates
        if first[_key(c)] is not c
    ]
    return kept, dropped


def drop_seen(candidates: Sequence[Candidate], seen: Sequence[Prompt], threshold: float) -> list[Candidate]:
    """Keep the candidates that neither equal nor (below a threshold of 1) resemble a prompt of `seen`."""
    before = [conversation(prompt.messages) for prompt in seen]
    texts = [conversation(candidate.messages) for candidate in candidates]
    near = NearDuplicates([*texts, *before], threshold)
    for index in range(len(texts), len(texts) + len(before)):
        near.add(index)
    exact = set(before)
    return [
        candidate
        for index, (candidate, text) in enumerate(zip(candidates, texts, strict=True))
        if text not in exact and (threshold == 1 or near.find(index) is None)
    ]


def _key(candidate: Candidate) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], normalised(message["content"])) for message in candidate.messages)


def _claim(candidate: Candidate) -> int:
    return ("held_out", "validation", "train", None).index(candidate.split)
