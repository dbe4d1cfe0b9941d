"""A policy taught on given rows: what tests of the learner share.

from taught import learned, references_of, rows_of
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from refine_rl.policy.policy import Policy
from refine_rl.settings import Settings
from refine_rl.training.grpo.learn import Loss
from refine_rl.training.grpo.setup import distance_of, learner_of, loss_of, passes_of
from refine_rl.training.learner import Learned
from refine_rl.training.rows import MemberKey, Row
from refine_rl.types import Group, Trajectory

References = Mapping[MemberKey, tuple[float, ...]]


def learned(
    policy: Policy,
    rows: Sequence[Row],
    settings: Settings,
    *,
    step: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    rate: float | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Learned:
    """One step of the settings' learner; without an optimizer, with its own AdamW."""
    learner = learner_of(settings, policy)
    if optimizer is not None:
        learner = replace(learner, optimizer=optimizer)
    return learner.learn(
        rows,
        loss_of(settings).objective(settings.grpo.kl),
        step=step,
        rate=settings.learning_rate if rate is None else rate,
        passes=passes_of(settings),
        pause=pause,
    )


def references_of(policy: Policy, trajectories: Sequence[Trajectory], settings: Settings) -> References:
    return distance_of(settings, policy, lambda: ()).references.of(trajectories)


def rows_of(
    groups: Sequence[Group], *, loss: str = "grpo", max_tokens: int = 8, references: Any = None
) -> list[Row]:
    made = Loss(name=loss, clip_low=0.2, clip_high=0.2, max_tokens=max_tokens)
    return made.rows(groups, references)
