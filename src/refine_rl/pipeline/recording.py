"""The training loop's recorder over a run's folder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from refine_rl.errors import UserError, quoted
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.training import checkpoint
from refine_rl.training.checkpoint import DamagedCheckpoint, Position
from refine_rl.training.grpo.pool import Chosen, Seen, worth
from refine_rl.types import Group, Score, StepMetrics


def newest_whole(run: RunFolder, observer: Observer) -> int:
    """The step of the newest checkpoint from which the run can go on; 0 where that is the start.

    What is damaged is named and set aside. A checkpoint serves only where the best one that it names is
    whole too, and the record reaches as far as it does: the steps after an earlier one are made again from
    the record, to the same bits, and bring back what is missing.
    """
    positions: dict[int, Position] = {}
    for step in run.checkpoints():
        try:
            positions[step] = checkpoint.check(run.checkpoint(step))
        except DamagedCheckpoint as damaged:
            aside = run.set_aside(step)
            text = (
                f"The checkpoint of step {step} is damaged: {damaged} It was set aside as {aside.name}, and "
                "training goes on from the one before; the steps since are made again from the record."
            )
            run.event("warning", "damaged_checkpoint", text, step)
            observer.warning(text)
    reached = run.recorded_to()
    usable = [
        step
        for step, position in positions.items()
        if step <= reached and (not position.best_step or position.best_step in positions)
    ]
    newest = max(usable, default=0)
    changed = max((change.step for change in run.changed_settings()), default=0)
    if newest < min(changed, reached):
        raise UserError(
            f"{run.path}: the newest checkpoint that can be used is that of step {newest}, but the steps up "
            f"to {changed} were made under other settings, and cannot be made again from the record. Train "
            f"them anew: refine train --resume {quoted(run.path)} --from-step {newest}"
        )
    return newest


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
        self._seen = _seen(run)
        self._pooled = {record["step"] for record in run.pool()}
        self._warned = {e["name"] for e in run.events() if e["kind"] in ("warning", "note")}

    def recorded(self, step: int) -> Sequence[Group] | None:
        return self._recorded.get(step)

    def history(self) -> Sequence[StepMetrics]:
        return self._history

    def seen(self) -> Sequence[Seen]:
        return self._seen

    def pool(self, step: int, chosen: Chosen) -> None:
        if step in self._pooled:
            return
        self._pooled.add(step)
        aside = [
            {"step": step, "prompt_id": a.prompt_id, "state": "aside", "why": a.why, "returns": a.returns}
            for a in chosen.aside
        ]
        back = [{"step": step, "prompt_id": name, "state": "back"} for name in chosen.back]
        self._run.append_pool([*aside, *back])

    def groups(self, groups: Sequence[Group]) -> None:
        self._seen += map(Seen.of, groups)
        self._run.append_groups(groups)
        if text := missing_text([s for g in groups for s in g.scores]):
            self.warning(groups[0].step, "missing_in_training", text)

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

    def note(self, step: int, name: str, text: str) -> None:
        """What is good to know, and no reason to worry; once a run."""
        if name not in self._warned:
            self._warned.add(name)
            self._run.event("note", name, text, step)
            self._observer.note(text)

    def checkpoint(self, position: Position, *, best: bool) -> None:
        step = position.step
        if step not in self._run.checkpoints():
            with self._run.timed("checkpoint", step):
                self._run.write_checkpoint(
                    step, lambda folder: checkpoint.save(folder, self._policy, self._optimizer, position)
                )
        if best:
            self._run.event("best", "validation", f"validation reward {position.best_reward:.5g}", step)
        self._run.prune_checkpoints(
            keep_newest=self._settings.grpo.keep_checkpoints, keep={position.best_step}
        )


def missing_text(scores: Sequence[Score]) -> str:
    """How many of the scores are missing, and why the first one is; "" where none is."""
    missing = [s for s in scores if s.status == "missing"]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{len(missing)} of {len(scores)} scores {verb} missing; a missing score counts for nothing. "
        f"The first reason:\n{missing[0].explanation}"
    )


def _seen(run: RunFolder) -> list[Seen]:
    """What the groups on record were worth, a probe's first."""
    probed = [
        Seen(
            step=0,
            prompt_id=o.prompt.id,
            values=tuple(s.value for _, s in o.sampled if s.value is not None),
        )
        for o in run.outcomes("probe") or []
    ]
    return probed + [
        Seen(
            step=g["step"],
            prompt_id=g["prompt_id"],
            values=worth((t["reward"], t["breakdown"]) for t in g["trajectories"]),
        )
        for g in run.groups()
    ]
