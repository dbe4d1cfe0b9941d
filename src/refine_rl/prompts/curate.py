"""What is kept of the candidates, and a record of what was dropped and why."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.near_duplicates import near_duplicates
from refine_rl.types import WRITER, Message, Prompt, Split

Asking = TypeVar("Asking", bound=Candidate | Prompt)
Kind = Literal["duplicate", "near-duplicate", "rejected", "surplus"]
_EXCERPT = 60  # characters of a text in a report


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A candidate that became no prompt: `origin` says which, `why` in words what it clashed with or what
    is wrong with it; `text` is what it would have asked."""

    origin: str
    kind: Kind
    why: str
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurationReport:
    """The way from the source's rows to the prompts, in numbers.

    `asked` has the numbers that the settings ask for (None: as many as there are). `remarks` are what a
    writer has to say besides, a line each: why it ended early, its system message.
    """

    source: str
    read: int
    dropped: tuple[Dropped, ...]
    splits: Mapping[Split, int]
    asked: Mapping[Split, int | None]
    remarks: tuple[str, ...] = ()

    def count(self, kind: Kind) -> int:
        """How many candidates were dropped for this reason."""
        return sum(dropped.kind == kind for dropped in self.dropped)

    def lost(self) -> str:
        """How many of the rows became no prompts, and why, in words; "" where all did. It stands where too
        few are left."""
        words: dict[Kind, tuple[str, str]] = {
            "duplicate": ("was a duplicate", "were duplicates"),
            "near-duplicate": ("was a near-duplicate", "were near-duplicates"),
            "rejected": ("was rejected", "were rejected"),
        }
        return ", ".join(
            f"{count} of {self.read} {many if count > 1 else one}"
            for kind, (one, many) in words.items()
            if (count := self.count(kind))
        )

    def summary(self) -> list[str]:
        """What was read or written, dropped and kept, a line each."""
        if self.source.startswith(WRITER):
            first = f"{self.read} prompts written by {self.source.removeprefix(WRITER)}"
        else:
            first = f"{self.read} prompts read from {self.source}"
        return [first, *self._dropped_lines(), self._kept_line(), *self.remarks]

    def _dropped_lines(self) -> Iterator[str]:
        if self.count("duplicate"):
            yield f"{self.count('duplicate')} dropped as exact duplicates"
        near = [dropped for dropped in self.dropped if dropped.kind == "near-duplicate"]
        if near:
            which = "" if self.source.startswith(WRITER) else " across splits"
            yield (
                f"{len(near)} dropped as near-duplicates{which} (`prompts.near_duplicate`), "
                f"such as {near[0].origin}: {near[0].why}"
            )
        rejected = [dropped for dropped in self.dropped if dropped.kind == "rejected"]
        for why, number in Counter(dropped.why for dropped in rejected).most_common():
            first = next(dropped for dropped in rejected if dropped.why == why)
            yield f"{number} rejected: {why}" + (f", such as “{excerpt(first.text)}”" if first.text else "")
        if self.count("surplus"):
            yield f"{self.count('surplus')} set aside: more than the settings ask for"

    def _kept_line(self) -> str:
        counts = []
        for split, count in self.splits.items():
            asked = self.asked[split]
            short = f" ({asked} asked for)" if asked is not None and count < asked else ""
            counts.append(f"{count} {split.replace('_', '-')}{short}")
        return "kept " + ", ".join(counts)


def excerpt(text: str, longest: int = _EXCERPT) -> str:
    """The beginning of a text on one line.

    >>> excerpt("one\\n two three", 9)
    'one tw...'
    """
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def normalised(text: str) -> str:
    """The text without differences of case, white space and Unicode form. Signs that only look or mean alike
    stay apart: "2²" is not "22".

    >>> normalised("Say  Hi.\\n"), normalised("2²")
    ('say hi.', '2²')
    """
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def conversation(messages: Sequence[Message]) -> str:
    """What was said, without the system message, `normalised`."""
    return normalised("\n".join(m["content"] for m in messages if m["role"] != "system"))


def dropped_for(candidate: Candidate, kind: Kind, why: str) -> Dropped:
    """That a candidate of a source was dropped."""
    return Dropped(origin=candidate.origin, kind=kind, why=why, text=candidate.messages[-1]["content"])


def drop_duplicates(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    """Keep one of the candidates whose messages are the same after `normalised`, and whose data are equal:
    the same question with another reference answer is another prompt.

    Of equals, one that its source puts into held_out stays, else one in validation, else one in train,
    else the first.
    """
    first: dict[tuple[Any, ...], Candidate] = {}
    claims = ("held_out", "validation", "train", None)
    for candidate in sorted(candidates, key=lambda c: claims.index(c.split)):
        first.setdefault(_key(candidate), candidate)
    kept = [c for c in candidates if first[_key(c)] is c]
    dropped = [
        dropped_for(c, "duplicate", f"the same as {first[_key(c)].origin}")
        for c in candidates
        if first[_key(c)] is not c
    ]
    return kept, dropped


def drop_seen(
    candidates: Sequence[Asking],
    seen: Sequence[Prompt],
    threshold: float,
    similarity: Literal["words", "meaning"] = "words",
    *,
    with_data: bool = False,
) -> list[Asking]:
    """Keep the candidates that neither equal nor (below a threshold of 1) resemble a prompt of `seen`.
    `with_data`: prompts with other data are not equal."""
    before = [conversation(prompt.messages) for prompt in seen]
    texts = [conversation(candidate.messages) for candidate in candidates]
    near = near_duplicates([*texts, *before], threshold, similarity)
    for index in range(len(texts), len(texts) + len(before)):
        near.add(index)
    exact = {(text, _data(p) if with_data else "") for text, p in zip(before, seen, strict=True)}
    return [
        candidate
        for index, (candidate, text) in enumerate(zip(candidates, texts, strict=True))
        if (text, _data(candidate) if with_data else "") not in exact and near.find(index) is None
    ]


def said(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """What the policy reads, `normalised`: two prompts with equal ones ask the same."""
    return tuple((message["role"], normalised(message["content"])) for message in messages)


def asked(candidate: Candidate, *, with_data: bool) -> tuple[Any, ...]:
    """What a candidate asks: what the policy reads, and its data where these make another question of it."""
    return (*said(candidate.messages), _data(candidate) if with_data else "")


def _key(candidate: Candidate) -> tuple[Any, ...]:
    return asked(candidate, with_data=True)


def _data(of: Candidate | Prompt) -> str:
    return json.dumps(of.data, sort_keys=True) if of.data else ""
