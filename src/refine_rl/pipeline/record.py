"""The training loop's record over a run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refine_rl.evaluate.traits import MOSTLY, due, paid_for
from refine_rl.report.survey import seen, survey
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.run.records import group_record
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.pool import Chosen, Seen, worth
from refine_rl.training.grpo.selection import Selection
from refine_rl.training.learner import Learner
from refine_rl.training.missing import missing_text
from refine_rl.types import Group, StepMetrics

SAMPLED = "sampled"
"""The state of a line in the pool's table that says which groups were sampled, and which of them scored."""


class FolderRecord:
    """Writes what the loop tells, and remembers what an earlier process had recorded already."""

    def __init__(
        self, run: RunFolder, learner: Learner, settings: Settings, journal: Journal, start: Position
    ) -> None:
        self._run, self._learner, self._journal = run, learner, journal
        self._eye = (
            "validation, the other eye's" if settings.evaluate.on_drift == "rollback" else "validation reward"
        )
        self._steps, self._newest_kept = settings.grpo.steps, settings.grpo.keep_checkpoints
        self._recorded = run.recorded_steps(after=start.step - settings.grpo.replay)
        self._history = run.history()
        self._selections = selections(run)
        self._seen = _seen(run, self._selections)
        self._traits = survey(run)
        self._pooled = {record["step"] for record in run.pool() if record["state"] != SAMPLED}

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

    def selected(self, step: int, selection: Selection) -> None:
        if step in self._selections:
            return
        self._selections[step] = selection
        pairs = zip(selection.prompts, selection.diversity, strict=True)
        diversity = {prompt.id: value for prompt, value in pairs}
        scored = [p.id for p in selection.prompts if p.id in selection.scored]
        self._run.pool.append({"step": step, "state": SAMPLED, "diversity": diversity, "scored": scored})

    def selection(self, step: int) -> Selection | None:
        return self._selections.get(step)

    def groups(self, groups: Sequence[Group]) -> None:
        self._seen += map(Seen.of, groups)
        self._seen += _passed_over(groups[0].step, self._selections)
        self._run.append_groups(groups)
        self._traits += [seen(group_record(g)) for g in groups]
        if text := missing_text([s for g in groups for s in g.scores]):
            self.warning(groups[0].step, "missing_in_training", text)

    def step(self, metrics: StepMetrics) -> None:
        self._history.append(metrics)
        self._journal.step(metrics, self._steps)
        if due(metrics.step):
            for name, text in paid_for(self._traits, self._steps, MOSTLY).items():
                self.warning(metrics.step, f"rises_with_{name}", text)

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
            text = f"{self._eye} {position.best_reward:.5g}"
            self._journal.event("best", "validation", text, step)
        left = self._run.prune_checkpoints(keep_newest=self._newest_kept, keep={position.best_step})
        self._learner.keep_only(left)
        self._journal.kept(step)


def selections(run: RunFolder) -> dict[int, Selection]:
    """Which groups were sampled and which of them scored, by step."""
    prompts = {p.id: p for p in run.prompts()}
    return {
        line["step"]: Selection(
            prompts=[prompts[name] for name in line["diversity"]],
            diversity=[*line["diversity"].values()],
            scored=frozenset(line["scored"]),
        )
        for line in run.pool()
        if line["state"] == SAMPLED
    }


def _passed_over(step: int, selections: Mapping[int, Selection]) -> list[Seen]:
    """The turns of those that were sampled and not scored."""
    if step not in selections:
        return []
    its = selections[step]
    return [Seen(step=step, prompt_id=p.id, values=()) for p in its.prompts if p.id not in its.scored]


def _seen(run: RunFolder, selections: Mapping[int, Selection]) -> list[Seen]:
    """What the groups on record were worth, a probe's first."""
    probed = [
        Seen(
            step=0,
            prompt_id=o.prompt.id,
            values=tuple(s.value for _, s in o.sampled if s.value is not None),
        )
        for o in run.outcomes("probe") or []
    ]
    found = [
        Seen(
            step=g["step"],
            prompt_id=g["prompt_id"],
            values=worth((t["reward"], t["breakdown"]) for t in g["trajectories"]),
        )
        for g in run.groups.lines()
    ]
    recorded = dict.fromkeys(seen.step for seen in found)
    found += [seen for step in recorded for seen in _passed_over(step, selections)]
    return probed + sorted(found, key=lambda seen: seen.step)
