"""The world that the settings name."""

from __future__ import annotations

from refine_rl.envs.base import How, World
from refine_rl.envs.early_exit import EarlyExit
from refine_rl.envs.several_turns import SeveralTurns
from refine_rl.envs.single_turn import SingleTurn
from refine_rl.envs.stage import Stage
from refine_rl.policy.protocol import Speaker
from refine_rl.settings import RolloutSettings


def world_of(rollout: RolloutSettings, speaker: Speaker, first: How, stage: Stage | None = None) -> World:
    """Training's, with how its first turn is drawn. `stage` is the environment that the settings name."""
    if (stage is None) == rollout.several_turns:
        raise ValueError("the stage is not that of the settings")
    if rollout.early_exit is not None:
        return EarlyExit(speaker=speaker, members=rollout.group_size, first=first, exits=rollout.early_exit)
    return plain_world(speaker, rollout.group_size, first, stage)


def plain_world(speaker: Speaker, members: int, first: How, stage: Stage | None) -> World:
    """Everybody else's: a plain answer, or the whole of what happens in an environment."""
    if stage is None:
        return SingleTurn(speaker=speaker, members=members, first=first)
    return SeveralTurns(speaker=speaker, members=members, first=first, stage=stage)
