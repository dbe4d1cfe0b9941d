"""The component `world`: what the rewards of an environment, one a turn, come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.settings import WorldSettings
from refine_rl.types import LARGEST, Played, Prompt, Score, Trajectory

WORLD = "world"
"""Its name in breakdowns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldReward:
    """r_1, r_2 ... are the rewards of a trajectory's turns, each counted discount ** (k - 1) times; taken is
    their sum, the highest ("best") or the last. A trajectory of which the world saw no turn has 0. Where the
    world failed, the score is missing (`of_failed`)."""

    take: str = "sum"
    discount: float = 1.0
    name: str = WORLD

    @classmethod
    def of(cls, settings: WorldSettings | None) -> WorldReward:
        table = settings or WorldSettings()
        return cls(take=table.take, discount=table.discount)

    def check_prompt(self, prompt: Prompt) -> None: ...

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        return [of_failed(t) or self._score(t.played) for t in trajectories]

    def _score(self, played: Played | None) -> Score:
        if played is None:
            return Score.missing("no world was played: this answer was not made in the environment")
        value = self.value(played.rewards)
        if not abs(value) <= LARGEST:
            return Score.missing("the rewards of the world are too large to be summed")
        why = f": {played.why}" if played.why else ""
        turns = ", ".join(f"{r:g}" for r in played.rewards) or "none"
        return Score(value=value, explanation=f"{value:g} ({self.take} of {turns}; {played.end}{why})")

    def value(self, rewards: Sequence[float]) -> float:
        """
        >>> WorldReward(discount=0.5).value([0.0, 1.0]), WorldReward(take="best").value([0.5, -1.0])
        (0.5, 0.5)
        """
        counted = [r * self.discount**k for k, r in enumerate(rewards)]
        if not counted:
            return 0.0
        if self.take == "sum":
            return math.fsum(counted)
        return max(counted) if self.take == "best" else counted[-1]


def of_failed(trajectory: Trajectory) -> Score | None:
    """The missing score of a trajectory whose world failed, whatever it is scored by; None for others."""
    played = trajectory.played
    if played is None or played.end != "failed":
        return None
    return Score.missing(f"the world failed: {played.why}")
