"""People's votes on pairs of answers, base beside tuned: which pairs, which side is which, what came of them.

Who votes is not told whose answer is whose: the side is drawn for each reviewer and prompt. Every reviewer is
shown the same pairs in the same order, so that 20 votes of each are on the same 20 pairs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from refine_rl.evaluate.agreement import Agreement, agreement, wilson
from refine_rl.randomness import generator
from refine_rl.types import Message, Outcome, Prompt, Score, Trajectory, same_value

Side = Literal["base", "tuned"]
Choice = Literal["left", "right", "tie", "undone"]
Kind = Literal["sampled", "greedy"]
Answered = tuple[Trajectory, Score]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two answers to a held-out prompt, drawn alike: the sampled ones of that `member`, or the greedy ones.
    `mark` tells these very texts from others, so that votes on answers that are no longer there do not
    count."""

    prompt: Prompt
    kind: Kind
    member: int
    base: Answered
    tuned: Answered
    mark: str

    def said(self, side: Side) -> tuple[Message, ...]:
        """What one of the two said, and what was said to it, behind the prompt."""
        trajectory = (self.base if side == "base" else self.tuned)[0]
        return trajectory.messages[len(self.prompt.messages) :]

    @property
    def judged(self) -> str | None:
        """Which of both has the higher reward on record ("tuned", "base", "tie"); None where one has none."""
        base, tuned = self.base[1].value, self.tuned[1].value
        if base is None or tuned is None:
            return None
        return ordered(base, tuned)


def ordered(base: float, tuned: float) -> str:
    """
    >>> ordered(0.5, 0.75), ordered(0.5, 0.25), ordered(0.5, 0.5)
    ('tuned', 'base', 'tie')
    """
    if same_value([base, tuned]):
        return "tie"
    return "tuned" if tuned > base else "base"


def pairs_of(base: Sequence[Outcome], tuned: Sequence[Outcome], seed: int) -> list[Pair]:
    """A pair for each prompt that both answered, in an order drawn by the seed: of the sampled answers whose
    texts differ one, else the greedy ones; prompts on which all are alike have none."""
    other = {outcome.prompt.id: outcome for outcome in tuned}
    both = [(outcome, other[outcome.prompt.id]) for outcome in base if outcome.prompt.id in other]
    order = generator(seed, "review").permutation(len(both))
    found = (_pair(both[int(place)], seed) for place in order)
    return [pair for pair in found if pair is not None]


def _pair(both: tuple[Outcome, Outcome], seed: int) -> Pair | None:
    base, tuned = both
    numbers = range(min(len(base.sampled), len(tuned.sampled)))
    several: list[tuple[Kind, int, Answered, Answered]] = [
        ("sampled", n, base.sampled[n], tuned.sampled[n]) for n in numbers
    ]
    differ = [one for one in several if _words(one[2]) != _words(one[3])]
    if differ:
        chosen = differ[int(generator(seed, "review", base.prompt.id).integers(len(differ)))]
    elif _words(base.greedy) != _words(tuned.greedy):
        chosen = ("greedy", 0, base.greedy, tuned.greedy)
    else:
        return None
    kind, member, one, other = chosen
    text = "\0".join([*_words(one), "\1", *_words(other)])
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Pair(prompt=base.prompt, kind=kind, member=member, base=one, tuned=other, mark=mark)


def _words(answered: Answered) -> list[str]:
    return [f"{m['role']}: {m['content'].strip()}" for m in answered[0].messages]


def left_of(pair: Pair, reviewer: str, seed: int) -> Side:
    """Whose answer a reviewer is shown on the left."""
    return "base" if generator(seed, "review side", pair.prompt.id, reviewer).integers(2) else "tuned"


def chosen(record: Mapping[str, Any]) -> str:
    """What a vote on record says of base and tuned.

    >>> chosen({"left": "tuned", "vote": "left"}), chosen({"left": "tuned", "vote": "right"})
    ('tuned', 'base')
    """
    if record["vote"] not in ("left", "right"):
        return str(record["vote"])
    other = "base" if record["left"] == "tuned" else "tuned"
    return str(record["left"]) if record["vote"] == "left" else other


def standing(records: Iterable[Mapping[str, Any]], pairs: Sequence[Pair]) -> dict[str, dict[str, str]]:
    """What each reviewer chose of which prompt, by the newest line of each; what was taken back, and what was
    said of other answers than these, is left out."""
    marks = {pair.prompt.id: pair.mark for pair in pairs}
    found: dict[str, dict[str, str]] = {}
    for record in records:
        own = found.setdefault(record["reviewer"], {})
        own.pop(record["prompt_id"], None)
        if record["vote"] != "undone" and marks.get(record["prompt_id"]) == record["mark"]:
            own[record["prompt_id"]] = chosen(record)
    return {reviewer: votes for reviewer, votes in found.items() if votes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """Votes for tuned, for base, and ties; `share` of those with a winner that were for tuned, with its 95 %
    interval (None where none has one)."""

    tuned: int
    base: int
    tie: int

    @property
    def votes(self) -> int:
        return self.tuned + self.base + self.tie

    @property
    def share(self) -> float | None:
        decided = self.tuned + self.base
        return self.tuned / decided if decided else None

    @property
    def ci95(self) -> tuple[float, float]:
        decided = self.tuned + self.base
        return wilson(self.tuned, decided) if decided else (0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What people preferred: of each prompt the choice of most (`all`), and each reviewer's own votes.
    `with_reward` is the agreement of the first with the order of the rewards on record, `with_each` that of
    each reviewer; `among` that of two reviewers on the pairs that both voted on."""

    all: Count
    reviewers: Mapping[str, Count]
    with_reward: Agreement
    with_each: Mapping[str, Agreement]
    among: Mapping[tuple[str, str], Agreement]


def tally(votes: Mapping[str, Mapping[str, str]], pairs: Sequence[Pair], seed: int) -> Tally:
    """What came of the standing votes."""
    most = majority(votes)
    judged = {pair.prompt.id: pair.judged for pair in pairs}
    return Tally(
        all=_count(most),
        reviewers={name: _count(own) for name, own in votes.items()},
        with_reward=_between(most, judged, seed),
        with_each={name: _between(own, judged, seed) for name, own in votes.items()},
        among={
            (one, other): _between(votes[one], votes[other], seed)
            for one, other in combinations(sorted(votes), 2)
        },
    )


def majority(votes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Of each prompt what most reviewers chose; a tie where two choices have as many.

    >>> majority({"a": {"p": "tuned", "q": "base"}, "b": {"p": "tuned", "q": "tuned"}, "c": {"p": "base"}})
    {'p': 'tuned', 'q': 'tie'}
    """
    by_prompt: dict[str, list[str]] = {}
    for own in votes.values():
        for name, choice in own.items():
            by_prompt.setdefault(name, []).append(choice)
    found = {}
    for name, choices in by_prompt.items():
        (first, number), *rest = Counter(choices).most_common(2)
        found[name] = "tie" if rest and rest[0][1] == number else first
    return found


def _count(votes: Mapping[str, str]) -> Count:
    found = Counter(votes.values())
    return Count(tuned=found["tuned"], base=found["base"], tie=found["tie"])


def _between(one: Mapping[str, str], other: Mapping[str, str | None], seed: int) -> Agreement:
    both = [(choice, said) for name, choice in one.items() if (said := other.get(name)) is not None]
    return agreement(both, seed)
