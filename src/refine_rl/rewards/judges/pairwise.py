"""Pairwise judging: two answers at a time, in both orders, scored by the share of wins.

Judges prefer a place (mostly the first): a preference that turns around with the order is a tie.
Every pair costs two calls:

    answers  2   3   4   6   8   9  10  12  16
    pairs    1   3   6  15  28  36  40  48  64        all pairs up to 9 answers, then 4 an answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from math import fsum

from refine_rl.llm.background import all_of
from refine_rl.llm.client import CallFailed, Client
from refine_rl.llm.schemas import explained
from refine_rl.llm.structured import Unusable
from refine_rl.randomness import generator
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.judging import Judge, explanation_of
from refine_rl.rewards.judges.looks import Case, Verdict

OPPONENTS = 8
"""The answers that each one meets at most; an even number."""

_WINNERS = {"a": 1.0, "b": 0.0, "tie": 0.5, "draw": 0.5, "equal": 0.5, "neither": 0.5, "both": 0.5}
WINNER = explained("comparison", {"winner": {"type": "string", "enum": ["A", "B", "tie"]}})


@dataclass(frozen=True, kw_only=True)
class Pairwise(Judge):
    """The share of pairs that an answer wins, among those that it plays.

    A pair is asked for in both orders and its points are the mean of both: 1 and 0 where they agree,
    1/2 each where they contradict each other, 3/4 and 1/4 where one of them is a tie; a further look reads
    both otherwise (views.py). A pair of which one order is missing is left out; an answer without any pair
    left has the value None.

    Up to 9 answers all pairs are played. Of more, each answer meets OPPONENTS others: its neighbours on
    a circle whose order follows from (seed, answers, look). So all meet equally many, and a chain of pairs
    connects any two.
    """

    relative = True
    text, key = "pairwise.md", "winner"

    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        bodies = [fenced_json(answer) for answer in case.answers]
        pairs = choose_pairs(bodies, self.seed, look)
        played = await all_of(self._play(client, case, bodies[i], bodies[j], look) for i, j in pairs)
        results: list[list[_Played]] = [[] for _ in bodies]
        for (i, j), pair in zip(pairs, played, strict=True):
            results[i].append(pair)
            results[j].append(pair.turned)
        return Verdict.of([_verdict(own) for own in results])

    async def _play(self, client: Client, case: Case, one: str, other: str, look: int) -> _Played:
        there, back = await all_of(
            [self._ask(client, case, one, other, look), self._ask(client, case, other, one, look)]
        )
        failure = there.failure or back.failure
        points = (there.points + 1 - back.points) / 2
        return _Played(points=points, reason=there.reason, failure=failure)

    async def _ask(self, client: Client, case: Case, a: str, b: str, look: int) -> _Played:
        """The points of `a`, shown first, against `b`."""
        try:
            points, reason = await self.ask(client, case, look, side_by_side(a, b), read_winner, WINNER)
        except CallFailed as error:
            return _Played(points=0.5, failure=str(error))
        return _Played(points=points, reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Played:
    """A pair, seen from one side: `seat` is what the judge's `reason` calls this answer. With a `failure`
    its points mean nothing."""

    points: float
    reason: str = ""
    failure: str = ""
    seat: str = "A"

    @property
    def turned(self) -> _Played:
        return _Played(points=1 - self.points, reason=self.reason, failure=self.failure, seat="B")


def side_by_side(a: str, b: str) -> str:
    """Two answers as the judge sees them."""
    return f'<answer name="A">\n{a}\n</answer>\n\n<answer name="B">\n{b}\n</answer>'


def pairs_played(answers: int) -> int:
    """How many pairs a look at so many distinct answers takes; each is asked for twice.

    >>> [pairs_played(n) for n in (1, 2, 8, 9, 16)]
    [0, 1, 28, 36, 64]
    """
    return answers * min(answers - 1, OPPONENTS) // 2


def choose_pairs(bodies: Sequence[str], seed: int, look: int) -> list[tuple[int, int]]:
    """The pairs to play, as places in `bodies`; which ones follows from the texts, not from their order.

    >>> choose_pairs(["x", "y", "z"], 0, 0)
    [(0, 1), (0, 2), (1, 2)]
    """
    count = len(bodies)
    if count - 1 <= OPPONENTS:
        return list(combinations(range(count), 2))
    by_text = sorted(range(count), key=lambda place: bodies[place])
    digest = blake2b("\x1f".join(bodies[place] for place in by_text).encode(), digest_size=16).hexdigest()
    circle = [by_text[i] for i in generator(seed, "pairwise", digest, look).permutation(count)]
    return [
        (circle[i], circle[(i + step) % count]) for step in range(1, OPPONENTS // 2 + 1) for i in range(count)
    ]


def _verdict(played: Sequence[_Played]) -> tuple[float | None, str]:
    """The value of one answer and the reason for it."""
    had = [pair for pair in played if not pair.failure]
    if not had:
        why = next((pair.failure for pair in played), "there is no other answer to compare it with")
        return None, why
    won, lost = (sum(pair.points > 0.5 for pair in had), sum(pair.points < 0.5 for pair in had))
    said = f"won {won}, tied {len(had) - won - lost}, lost {lost}"
    if len(had) < len(played):
        said += f"; {len(played) - len(had)} of {len(played)} pairs are missing"
    value = fsum(pair.points for pair in had) / len(had)
    # The pair that says most about this answer: one that went as most of its pairs did.
    telling = min(had, key=lambda pair: abs(pair.points - value))
    return value, f"{said}; in one pair, as {telling.seat}: {telling.reason}" if telling.reason else said


def read_winner(reply: object) -> tuple[float, str]:
    """(points of A, explanation) of a parsed reply; raises Unusable with what is wrong.

    >>> read_winner({"explanation": "A is clearer.", "winner": "Answer A"})
    (1.0, 'A is clearer.')
    """
    if not isinstance(reply, Mapping):
        raise Unusable('The reply must be an object with "explanation" and "winner".')
    if "winner" not in reply:
        raise Unusable('The reply has no "winner".')
    written = reply["winner"]
    plain = str(written).strip(" \t\n\"'`.*").casefold().removeprefix("answer").strip()
    if plain not in _WINNERS:
        raise Unusable(f'The winner is {repr(written)[:60]}; it must be "A", "B" or "tie".')
    return _WINNERS[plain], explanation_of(reply)
