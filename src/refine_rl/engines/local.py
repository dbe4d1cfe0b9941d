"""The engine of one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refine_rl.policy.policy import Policy
from refine_rl.training import checkpoint
from refine_rl.training.learner import LearnerConfig
from refine_rl.training.local import LocalLearner, local_learner


@dataclass(eq=False)
class LocalEngine:
    """The model of this process answers and learns."""

    policy: Policy
    notes: tuple[str, ...] = ()

    @property
    def speaker(self) -> Policy:
        return self.policy

    def hold_still(self, longest: int) -> bool:
        return self.policy.hold_still(longest)

    def learner(self, config: LearnerConfig) -> LocalLearner:
        return local_learner(self.policy, config)

    def take(self, folder: Path) -> None:
        checkpoint.load(folder, self.policy)

    def close(self) -> None:
        """Nothing is held but memory, which goes with the last who knows this engine."""
