"""Two answers beside one another, in both orders: who wins, for a win rate.

Stricter than the pairwise scores of training: a win counts only where the judge names the same answer in both
orders; everything else is a tie. A judge that always names the first one so leaves nothing but ties, and the
share of its verdicts for the first place says that it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from refine_rl.llm.background import all_of
from refine_rl.llm.client import CallFailed, Client
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.looks import Case
from refine_rl.rewards.judges.pairwise import WINNER, Pairwise, read_winner, side_by_side
from refine_rl.rewards.judges.panel import Panel, make_case
from refine_rl.types import Prompt, Trajectory

PURPOSE = "win rate"
"""What its calls are for, in the ledger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """What came of one pair. `points` of the first answer: 1 won, 0 lost, 1/2 a tie, the mean over judges;
    None where no judge's verdict could be had, and `failure` says why. `decided` verdicts named a winner,
    `first` of them the answer that was shown first; of `pairs` (one a judge) `turned` turned around with the
    order.

    >>> Duel(points=0.5, decided=2, first=2, pairs=1, turned=1).points
    0.5
    """

    points: float | None
    decided: int = 0
    first: int = 0
    pairs: int = 0
    turned: int = 0
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Referee:
    """Judges who compare two answers, each in both orders."""

    judging: Pairwise
    judges: tuple[Client, ...]

    @property
    def models(self) -> str:
        return ", ".join(client.model for client in self.judges)

    @property
    def panel(self) -> Panel:
        """The same judges, for a first look at them."""
        return Panel(judging=self.judging, judges=self.judges)

    async def duel(self, prompt: Prompt, one: Trajectory, other: Trajectory) -> Duel:
        """`one` against `other`; equal answers tie without a call. What stops a run is let through."""
        case, places = make_case(prompt, (one, other))
        if len(case.answers) == 1:
            return Duel(points=0.5)
        a, b = (fenced_json(case.answers[place]) for place in places)
        return _together(await all_of(self._by(client, case, a, b) for client in self.judges))

    async def _by(self, client: Client, case: Case, a: str, b: str) -> Duel:
        try:
            there, back = await all_of([self._ask(client, case, a, b), self._ask(client, case, b, a)])
        except CallFailed as error:
            return Duel(points=None, failure=f"{client.model}: {error}")
        agreed = there != 0.5 and there == 1 - back
        return Duel(
            points=there if agreed else 0.5,
            decided=(there != 0.5) + (back != 0.5),
            first=(there == 1) + (back == 1),
            pairs=1,
            turned=int(there != 0.5 and there == back),
        )

    async def _ask(self, client: Client, case: Case, first: str, second: str) -> float:
        points, _ = await self.judging.ask(client, case, 0, side_by_side(first, second), read_winner, WINNER)
        return points


def _together(duels: Sequence[Duel]) -> Duel:
    """The mean over the judges whose verdict could be had."""
    points = [duel.points for duel in duels if duel.points is not None]
    return Duel(
        points=fsum(points) / len(points) if points else None,
        decided=sum(duel.decided for duel in duels),
        first=sum(duel.first for duel in duels),
        pairs=sum(duel.pairs for duel in duels),
        turned=sum(duel.turned for duel in duels),
        failure="\n".join(duel.failure for duel in duels if duel.failure),
    )
