"""The training loop's record over a run's folder."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.pool import Chosen, Seen, worth
from refine_rl.training.learner import Learner
from refine_rl.training.missing import missing_text
from refine_rl.types import Group, StepMetrics


class FolderRecord:
    """Writes what the loop tells, and remembers what an earlier process had recorded already."""

    def __init__(
        self, run: RunFolder, learner: Learner, settings: Settings, journal: Journal, start: Position
    ) -> None:
        self._run, self._learner, self._journal = run, learner, journal
        self._steps, self._newest_kept = settings.grpo.steps, settings.grpo.keep_checkpoints
        self._recorded = run.recorded_steps(after=start.step)
        self._history = run.history()
        self._seen = _seen(run)
        self._pooled = {record["step"] for record in run.pool()}

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
        drawn: list[dict[str, object]] = []
        if (d := chosen.drawn) is not None:
            promised = {name: round(p, 4) for name, p in d.promised.items()}
            drawn = [{"step": step, "state": "drawn", "promised": promised, "pool": dict(d.pool)}]
        self._run.pool.append(*drawn, *aside, *back)

    def groups(self, groups: Sequence[Group]) -> None:
        self._seen += map(Seen.of, groups)
        self._run.append_groups(groups)
        if text := missing_text([s for g in groups for s in g.scores]):
            self.warning(groups[0].step, "missing_in_training", text)

    def step(self, metrics: StepMetrics) -> None:
        self._history.append(metrics)
        self._journal.step(metrics, self._steps)

    def warning(self, step: int, name: str, text: str) -> None:
        self._journal.warning(name, text, step, shown=f"Step {step}: {text}", once=True)

    def note(self, step: int, name: str, text: str) -> None:
        self._journal.note(name, text, step, once=True)

    def checkpoint(self, position: Position, *, best: bool) -> None:
        step = position.step
        if step not in self._run.checkpoints():
            with self._run.timed("checkpoint", step):
                self._run.write_checkpoint(step, lambda folder: self._learner.save(folder, position))
        if best:
            text = f"validation reward {position.best_reward:.5g}"
            self._journal.event("best", "validation", text, step)
        left = self._run.prune_checkpoints(keep_newest=self._newest_kept, keep={position.best_step})
        self._learner.keep_only(left)
        self._journal.kept(step)


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
        for g in run.groups.lines()
    ]
