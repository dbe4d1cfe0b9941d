"""The learner of several processes: each works a part of the rows, the gradient is the sum.

A row's weight in the loss is known before any forward pass, so the sum over processes is that of one process
over all rows. Clipping and the optimizer's step are each process's own, on the same numbers; a check sum of
the weights after each step proves that they have stayed the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from refine_rl.engines.processes.deal import cut
from refine_rl.engines.processes.hand import Hand
from refine_rl.engines.processes.orders import (
    AddUp,
    Gradient,
    Learn,
    Move,
    Order,
    Rest,
    Take,
    TakeWeights,
)
from refine_rl.engines.processes.speaker import TeamSpeaker
from refine_rl.engines.processes.team import Team
from refine_rl.errors import MachineError
from refine_rl.progress import Pause
from refine_rl.training.check import Check
from refine_rl.training.checkpoint import Position
from refine_rl.training.learner import LearnerConfig, Objective
from refine_rl.training.local import LocalLearner
from refine_rl.training.rows import Row, length
from refine_rl.training.update import Found, Updating


@dataclass(kw_only=True, eq=False)
class TeamLearner(Updating):
    """`own` learns in this process, on its part of the rows. `whole`: see `Learner`; where a process is lost
    while weights move, others may have moved already."""

    own: LocalLearner
    hand: Hand
    team: Team
    number: int  # the model's
    _norm: float = 0.0

    def take(self, rows: Sequence[Row]) -> None:
        """See `Updating`. Groups stay together where they can: their prompt is computed once."""
        some = [r.trajectory for r in rows]
        packed = self.own.speaker.shares_prompts
        shared = [len(t.segments[0].token_ids) if packed else 0 for t in some]
        own = [length(t) - s for t, s in zip(some, shared, strict=True)]
        keys = [
            t.segments[0].token_ids if r.sampled else n
            for n, (t, r) in enumerate(zip(some, rows, strict=True))
        ]
        parts = cut(keys, shared, own, self.team.place.size)
        orders: dict[int, Order] = {
            rank: Take(model=self.number, rows=rows[part]) for rank, part in enumerate(parts) if rank
        }
        with self.team.asked(orders) as asked:
            self.own.take(rows[parts[0]])
            asked.wait()

    def gradient(self, objective: Objective, step: int, update: int, pause: Pause) -> Found:
        """See `Updating`: the sum of all processes'."""
        order = Gradient(model=self.number, objective=objective, step=step, update=update)
        with self.team.asked(dict.fromkeys(self.team.others, order)) as asked:
            with self.team.together():
                found = self.hand.gradient(objective, step, update, asked.pause(pause))
            theirs = asked.wait(pause)
        parts = [found, *(theirs[rank][0] for rank in self.team.others)]
        masks = [self.hand.touched(), *(theirs[rank][1] for rank in self.team.others)]
        touched = [any(those) for those in zip(*masks, strict=True)]
        self.team.all(AddUp(model=self.number, touched=touched), lambda: self.hand.add_up(touched))
        return Found(
            loss=sum(part.loss for part in parts),
            clipped_tokens=sum(part.clipped_tokens for part in parts),
            apart=torch.cat([part.apart for part in parts]),
        )

    def clipped_norm(self) -> float:
        """See `Updating`."""
        self._norm = self.own.clipped_norm()
        return self._norm

    def move(self, rate: float) -> None:
        """See `Updating`."""
        order = Move(model=self.number, rate=rate, norm=self._norm)

        def own() -> int:
            self.own.move(rate)
            return self.hand.policy.check_sum()

        _require_same(self.team.all(order, own), "after an optimizer step")

    def rest(self) -> None:
        """See `Updating`."""
        self.team.all(Rest(model=self.number), self.own.rest)

    def save(self, folder: Path, position: Position) -> None:
        """See `Learner`: the files of a run in one process, by this process alone."""
        self.own.save(folder, position)

    def keep_only(self, checkpoints: Sequence[Path]) -> None:
        """See `Learner`: nothing of it is elsewhere."""

    def load(self, folder: Path) -> Position:
        """See `Learner`: this process reads, the others are given what it read."""
        position = self.own.load(folder)
        give_weights(self.team, self.hand, self.number, states=True)
        self.whole = True
        return position


def team_learner(speaker: TeamSpeaker, config: LearnerConfig) -> TeamLearner:
    """The learner of a model that all processes have."""
    hand, team = speaker.hand, speaker.team
    own = hand.learn(config)
    team.all(Learn(model=speaker.number, config=config))
    check = Check(speaker=speaker, temperature=config.temperature, allowed=config.allowed)
    return TeamLearner(
        own=own,
        hand=hand,
        team=team,
        number=speaker.number,
        check=check,
        dropout=config.dropout,
        table=config.table,
    )


def give_weights(team: Team, hand: Hand, number: int, *, states: bool) -> None:
    """This process's weights to all, and its optimizer's state."""
    some = hand.states() if states else None

    def own() -> int:
        hand.take_weights()
        if some is not None:
            hand.take_states(some)
        return hand.policy.check_sum()

    _require_same(team.all(TakeWeights(model=number, states=some), own), "after they were given out")


def _require_same(sums: dict[int, int], when: str) -> None:
    for rank, found in sums.items():
        if found != sums[0]:
            raise MachineError(
                f"The weights of process {rank} are not those of the first one {when}: its machine computes "
                "something else. Nothing is trained from here on; take processes of one kind of machine."
            )
