"""The world that the settings name."""

from __future__ import annotations

from refine_rl.envs.base import World
from refine_rl.envs.early_exit import EarlyExit
from refine_rl.envs.single_turn import SingleTurn
from refine_rl.settings import RolloutSettings


def world_of(rollout: RolloutSettings) -> World:
    """Training's; everything else asks for plain answers."""
    if rollout.early_exit is None:
        return SingleTurn()
    return EarlyExit(exits=rollout.early_exit, members=rollout.group_size, max_tokens=rollout.max_tokens)
