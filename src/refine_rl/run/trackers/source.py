"""What a tracker is given, read from the run's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from refine_rl.run.files import Record
from refine_rl.run.folder import RunFolder
from refine_rl.run.follow import Following
from refine_rl.run.forgotten import REWOUND, marked
from refine_rl.run.state import end_of, turn_of
from refine_rl.run.trackers.base import About, Cells, End, Row
from refine_rl.run.trackers.names import comparison_values, step_values, validation_values
from refine_rl.settings import Settings

_EVERY = 10  # steps between tables of answers where nothing is validated


class Source:
    """The run's files, read on from where they were read last. Several threads may read, while the run
    writes."""

    def __init__(self, folder: RunFolder, settings: Settings, *, part_of: str = "") -> None:
        self._folder, self._settings, self._part_of = folder, settings, part_of
        self._metrics, self._validation = Following(folder.metrics), Following(folder.validation)
        self._groups = Following(folder.groups, self._thin)
        self._events = Following(folder.events)

    @property
    def texts(self) -> bool:
        """Whether prompts and answers may be shown elsewhere."""
        return self._settings.track.rollouts > 0

    def about(self) -> About:
        """What the run is, by the settings in force."""
        settings, folder = self._folder.settings(), self._folder
        name = settings.track.name or (self._part_of or folder.name)
        return About(
            project=settings.track.project,
            name=f"{name}/{folder.name}" if self._part_of else name,
            group=name if self._part_of else "",
            kind=folder.config.kind(),
            folder=folder.path.absolute(),
            config={**settings.model_dump(mode="json"), "versions": folder.config.versions()},
        )

    def begun(self) -> bool:
        """Whether there is a run to be shown: what was refused before it began is none."""
        return any(e["kind"] == "started" for e in self._events.lines())

    def recorded_to(self) -> int:
        """The last step that has a line of metrics; 0 where there is none."""
        return max((line["step"] for line in self._metrics.lines()), default=0)

    def went_back(self, since: int) -> tuple[int, int | None]:
        """How often the run went back to an earlier step, and the earliest such step, of the times from
        number `since` on (None where there is none)."""
        back = [e["step"] for e in self._events.lines() if e["kind"] == REWOUND]
        return len(back), min(back[since:], default=None)

    def rows(self, after: int, through: int) -> Iterator[Row]:
        """What there is of each step later than `after`, up to `through`."""
        values: dict[int, dict[str, float]] = {}
        for line in self._metrics.lines():
            if after < line["step"] <= through:
                values.setdefault(line["step"], {}).update(step_values(line))
        for line in self._validation.lines():
            if after < line["step"] <= through:
                values.setdefault(line["step"], {}).update(validation_values(line))
        if not values:
            return
        answers = self._answers(values.keys())
        warnings = self._warnings(values.keys())
        for step in sorted(values):
            yield Row(
                step=step,
                values=values[step],
                rollouts=answers.get(step, ()),
                warnings=warnings.get(step, ()),
            )

    def end(self) -> End:
        """How the run stands now that its process ends."""
        events = list(self._events.lines())
        state, turn = end_of(events), turn_of(events)
        comparison = self._folder.comparison()
        told = {} if comparison is None else dataclasses.asdict(comparison)
        tables: dict[str, Sequence[Cells]] = {}
        if self.texts:
            tables["events"] = [
                {k: e.get(k) for k in ("time", "step", "kind", "name", "text")} for e in events
            ]
            columns = ("prompt", "base", "tuned", "base_reward", "tuned_reward")
            if examples := told.get("examples"):
                tables["held_out"] = [{column: e[column] for column in columns} for e in examples]
        page = self._folder.report.absolute()
        return End(
            state=state or "failed",
            text=str(turn["text"]) if state and turn and (self.texts or state == "finished") else "",
            step=self.recorded_to(),
            values=comparison_values(told),
            verdict=str(told.get("verdict", "")),
            tables=tables,
            page=page if self.texts and page.is_file() else None,
        )

    # -- texts --------------------------------------------------------------------------------

    def _shown(self, step: int) -> bool:
        """Whether answers of a step are shown."""
        grpo, validation = self._settings.grpo, self._settings.prompts.validation
        every = (grpo.validate_every if validation else 0) or _EVERY
        return self.texts and (step % every == 0 or step in (1, grpo.steps))

    def _thin(self, group: Record) -> Record:
        """The group of a line as it is kept: with its texts where they are shown."""
        kept = {key: group[key] for key in ("step", "groups_in_step", "prompt_id")}
        if not self._shown(group["step"]):
            return kept
        columns = ("messages", "reward", "advantage")
        return {**kept, "trajectories": [{c: t.get(c) for c in columns} for t in group["trajectories"]]}

    def _answers(self, steps: Any) -> dict[int, list[Cells]]:
        """The table of answers of each of `steps` that has one."""
        found: dict[int, list[Cells]] = {}
        if not any(map(self._shown, steps)):
            return found
        groups: dict[int, int] = {}
        for group in self._groups.lines():
            step = group["step"]
            if step not in steps or "trajectories" not in group:
                continue
            groups[step] = groups.get(step, 0) + 1
            if groups[step] <= self._settings.track.rollouts:
                found.setdefault(step, []).extend(self._cells(group))
        return found

    def _cells(self, group: Mapping[str, Any]) -> Iterator[Cells]:
        given = self._given[group["prompt_id"]]
        for t in group["trajectories"]:
            yield {
                "step": group["step"],
                "prompt_id": group["prompt_id"],
                "prompt": _said(t["messages"][:given]),
                "completion": _said(t["messages"][given:]),
                "reward": t["reward"],
                "advantage": t["advantage"],
            }

    @cached_property
    def _given(self) -> dict[str, int]:
        """How many messages each prompt has."""
        return {prompt.id: len(prompt.messages) for prompt in self._folder.prompts()}

    def _warnings(self, steps: Any) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for event in marked(self._events.lines()) if self.texts else ():
            if event["forgotten"]:
                continue
            if event["kind"] in ("warning", "guard") and event.get("step") in steps:
                found.setdefault(event["step"], []).append(f"{event['name']}: {event['text']}")
        return found


def _said(messages: Sequence[Mapping[str, str]]) -> str:
    """
    >>> _said([{"role": "user", "content": "Hi."}])
    'Hi.'
    >>> _said([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}])
    'system: Be brief.\\n\\nuser: Hi.'
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
