"""The rewards of a serial group (S-GRPO): the earlier a right answer, the more it earns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refine_rl.rewards.base import Around
from refine_rl.types import Prompt, Score, Trajectory


def decayed(rights_G: Sequence[bool | None]) -> tuple[float | None, ...]:
    """S-GRPO (arXiv 2505.07686): r_i = 1 / 2^(right answers before i) for a right answer, 0 for a wrong one,
    in a group that is ordered by the length of the thoughts.

    An answer of which it is not known (None) earns nothing, costs nothing, and does not count for others.

    >>> decayed([False, True, True, False, True])
    (0.0, 1.0, 0.5, 0.0, 0.25)
    """
    rewards: list[float | None] = []
    before = 0
    for right in rights_G:
        rewards.append(None if right is None else 0.5**before if right else 0.0)
        before += bool(right)
    return tuple(rewards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decayed(Around):
    """`reward`, paid by `decayed`: right is what it calls a full success. The breakdown stays as it was; a
    missing score stays missing, and an invalid one is wrong."""

    @property
    def top(self) -> float | None:
        """The first right answer's."""
        return None if self.reward.relative else 1.0

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score a trajectory; they must stand in the order of their thoughts' length."""
        scores = await self.reward.score_group(prompt, trajectories)
        rights = [None if s.status == "missing" else self.reward.success(s) for s in scores]
        return [
            replace(score, value=value, explanation=_explained(score, value))
            for score, value in zip(scores, decayed(rights), strict=True)
        ]


def _explained(score: Score, value: float | None) -> str:
    if value is None:
        return score.explanation
    what = f"right, so it earns {value:g}" if value else "not right, so it earns 0"
    return f"{score.explanation}\nearly exit: {what}".lstrip("\n")
