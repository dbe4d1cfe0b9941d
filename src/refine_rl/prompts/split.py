"""Which prompt belongs to which split: by the hash of its text, never by its place in the file.

Held-out prompts are chosen first, then validation, then train; a candidate that nearly equals a prompt of
an earlier choice is dropped, and the next one takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal

from refine_rl.prompts.candidates import SPLITS, Candidate
from refine_rl.prompts.curate import Dropped, conversation, dropped_for, excerpt, normalised
from refine_rl.prompts.curate import asked as asked_by
from refine_rl.prompts.near_duplicates import near_duplicates
from refine_rl.types import Split

_SPARE = 1000  # candidates beside twice those that are asked for
_DEFAULT_SHARE: dict[Split, tuple[float, int]] = {"held_out": (0.2, 100), "validation": (0.1, 32)}


def by_hash(candidates: Sequence[Candidate]) -> list[Candidate]:
    """An order that depends on the texts alone: the same however the file is sorted."""
    return sorted(candidates, key=_rank)


def split_candidates(
    candidates: Sequence[Candidate],
    asked: Mapping[Split, int | None],
    near_duplicate: float,
    similarity: Literal["words", "meaning"] = "words",
    *,
    with_data: bool = False,
) -> tuple[dict[Split, list[Candidate]], list[Dropped]]:
    """Share candidates out, each split in the order in which they are given.

    A candidate with a split goes there or nowhere; the others fill up what is asked for. None asks for
    the candidates that say so themselves; where there are none, for 20 % of the others, at least 1 and
    at most 100 (held_out), 10 % of them up to 32 (validation), all that are left (train). What asks the same
    stands in one split, also where `near_duplicate` is 1; `with_data`: other data are another question, as
    where a world plays what the data say.
    """
    limits = _limits(candidates, asked, sum(c.split is None for c in candidates))
    first, rest = _likely(candidates, limits)
    chosen, dropped = _split(first, limits, near_duplicate, similarity, with_data)
    if rest and any(len(chosen[split]) < (limits[split] or 0) for split in SPLITS):
        return _split(candidates, limits, near_duplicate, similarity, with_data)
    return chosen, [*dropped, *map(_surplus, rest)]


def _likely(
    candidates: Sequence[Candidate], limits: Mapping[Split, int | None]
) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    """The first candidates, in which all that may be chosen will be found, and the others: a data set may
    have a hundred times as many, and to compare one takes some 100 kB. There are no others where a number
    is open, or where candidates say their split."""
    counts = [limits[split] for split in SPLITS]
    if None in counts or any(c.split is not None for c in candidates):
        return candidates, ()
    enough = _SPARE + 2 * sum(count or 0 for count in counts)
    return candidates[:enough], candidates[enough:]


def _split(
    candidates: Sequence[Candidate],
    limits: Mapping[Split, int | None],
    near_duplicate: float,
    similarity: Literal["words", "meaning"],
    with_data: bool,
) -> tuple[dict[Split, list[Candidate]], list[Dropped]]:
    near = near_duplicates([conversation(c.messages) for c in candidates], near_duplicate, similarity)
    same: dict[object, int] = {}  # what is asked in the splits that are chosen already -> who asks it
    free = [index for index, c in enumerate(candidates) if c.split is None]
    chosen: dict[Split, list[int]] = {split: [] for split in SPLITS}
    dropped: list[Dropped] = []
    split_of: dict[int, Split] = {}
    for split in reversed(SPLITS):
        own = [index for index, c in enumerate(candidates) if c.split == split]
        for index in own + free:
            limit = limits[split]
            if limit is not None and len(chosen[split]) >= limit:
                break
            twin = same.get(asked_by(candidates[index], with_data=with_data))
            clash = near.find(index) if twin is None else None
            if twin is not None:
                why = f"asks the same as {candidates[twin].origin} in {split_of[twin]}"
                dropped.append(dropped_for(candidates[index], "duplicate", why))
            elif clash is not None:
                other = candidates[clash[0]]
                words = excerpt(conversation(other.messages))
                why = f"{clash[1]:.2f} like {other.origin} in {split_of[clash[0]]} ({words})"
                dropped.append(dropped_for(candidates[index], "near-duplicate", why))
            else:
                chosen[split].append(index)
            split_of[index] = split
        free = [index for index in free if index not in split_of]
        for index in chosen[split]:
            near.add(index)
            same.setdefault(asked_by(candidates[index], with_data=with_data), index)
    dropped += [_surplus(c) for index, c in enumerate(candidates) if index not in split_of]
    return {split: [candidates[i] for i in sorted(chosen[split])] for split in SPLITS}, dropped


def _surplus(candidate: Candidate) -> Dropped:
    return dropped_for(candidate, "surplus", "more than the settings ask for")


def _limits(
    candidates: Sequence[Candidate], asked: Mapping[Split, int | None], free: int
) -> dict[Split, int | None]:
    """How many prompts each split takes at most; None for all."""
    limits = dict(asked)
    for split, (share, most) in _DEFAULT_SHARE.items():
        if limits[split] is None:
            own = sum(c.split == split for c in candidates)
            limits[split] = own or min(int(share * free), most)
    if limits["held_out"] == 0:
        limits["held_out"] = 1
    return limits


def _rank(candidate: Candidate) -> tuple[bytes, str]:
    """Prompts that differ only in their system message lie side by side."""
    whole = "\n".join(f"{m['role']} {normalised(m['content'])}" for m in candidate.messages)
    return blake2b(conversation(candidate.messages).encode(), digest_size=16).digest(), whole
