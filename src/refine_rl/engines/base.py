"""What an engine is: the two players of a run that touch its model, and how they come to life and end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Speaker
from refine_rl.policy.tools import Schemas
from refine_rl.settings import ModelSettings
from refine_rl.training.learner import Learner, LearnerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """Which model, with which adapter, and the tools that it is told of: all that another process needs to
    have the same one."""

    model: ModelSettings
    seed: int
    adapter_from: Path | None
    keep_reference: bool
    moment: datetime
    tools: Schemas = ()

    def policy(self) -> Policy:
        """The model, in this process. Raises what `load_policy` raises, and UserError where its template
        knows no tools."""
        policy = load_policy(
            self.model,
            seed=self.seed,
            adapter_from=self.adapter_from,
            keep_reference=self.keep_reference,
            moment=self.moment,
        )
        if self.tools:
            policy.tell_tools(self.tools)
        return policy


class Engine(Protocol):
    """Where a run's model is."""

    @property
    def policy(self) -> Policy:
        """Its texts, its template and its shape, on this machine; whether its weights are here, too, is the
        engine's affair. To answer and to compute log-probs, ask the speaker."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it as the run begins."""

    @property
    def speaker(self) -> Speaker:
        """Who answers, with the weights as they are now."""

    def hold_still(self, longest: int) -> bool:
        """As `Policy.hold_still`, wherever the weights are."""

    def learner(self, config: LearnerConfig) -> Learner:
        """Who moves the speaker's weights."""

    def take(self, folder: Path) -> None:
        """Gives the speaker the weights of a checkpoint. Raises DamagedCheckpoint, or UserError where they do
        not fit."""

    def close(self) -> None:
        """Lets go of the model, and of whoever computed with it. It may be called twice."""
