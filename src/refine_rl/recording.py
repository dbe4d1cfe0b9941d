"""The training loop's recorder over a run's folder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from refine_rl.config import Settings
from refine_rl.grpo import checkpoint
from refine_rl.grpo.checkpoint import Position
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer
from refine_rl.runs import RunFolder
from refine_rl.types import Group, StepMetrics


class FolderRecorder:
    """Writes what the loop tells, and remembers what an earlier process had recorded already."""

    def __init__(
        self,
        run: RunFolder,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        observer: Observer,
        start: Position,
    ) -> None:
        self._run, self._policy, self._optimizer = run, policy, optimizer
        self._settings, self._observer = settings, observer
        self._recorded = run.recorded_steps(after=start.step)
        self._history = run.history()
        self._warned = {e["name"] for e in run.events() if e["kind"] == "warning"}

    def recorded(self, step: int) -> list[Group] | None:
        return self._recorded.pop(step, None)

    def history(self) -> Sequence[StepMetrics]:
        return self._history

    def groups(self, groups: Sequence[Group]) -> None:
        self._run.append_groups(groups)

    def metrics(self, metrics: StepMetrics) -> None:
        self._history.append(metrics)
        self._run.append_metrics(metrics)
        self._observer.step(metrics, self._settings.grpo.steps)

    def warning(self, step: int, name: str, text: str) -> None:
        """Each warning is given once a run."""
        if name not in self._warned:
            self._warned.add(name)
            self._run.event("warning", name, text, step)
            self._observer.warning(f"Step {step}: {text}")

    def checkpoint(self, position: Position, *, best: bool) -> None:
        step = position.step
        if step not in self._run.checkpoints():
            self._run.write_checkpoint(
                step, lambda folder: checkpoint.save(folder, self._policy, self._optimizer, position)
            )
        if best:
            self._run.event("best", "validation", f"validation reward {position.best_reward:.4f}", step)
        self._run.prune_checkpoints(
            keep_newest=self._settings.grpo.keep_checkpoints, keep={position.best_step}
        )
