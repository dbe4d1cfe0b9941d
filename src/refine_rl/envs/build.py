"""The world that the settings name."""

from __future__ import annotations

from refine_rl.envs.base import How, World
from refine_rl.envs.early_exit import EarlyExit
from refine_rl.envs.single_turn import SingleTurn
from refine_rl.policy.protocol import Speaker
from refine_rl.settings import RolloutSettings


def world_of(rollout: RolloutSettings, speaker: Speaker, first: How) -> World:
    """Training's, with how its first turn is drawn; everything else asks for plain answers."""
    if rollout.early_exit is None:
        return SingleTurn(speaker=speaker, members=rollout.group_size, first=first)
    return EarlyExit(speaker=speaker, members=rollout.group_size, first=first, exits=rollout.early_exit)
