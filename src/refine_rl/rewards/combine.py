"""Rules, functions, judges and penalties brought together into one reward, every component kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from refine_rl.errors import UserError
from refine_rl.llm.background import all_of
from refine_rl.rewards.base import Reward, scored
from refine_rl.rewards.functions.answers import left_out
from refine_rl.rewards.judges.gate import gated
from refine_rl.rewards.judges.panel import Panel
from refine_rl.rewards.overlong import Overlong
from refine_rl.rewards.world import of_failed
from refine_rl.types import LARGEST, LOGGED, Prompt, Score, Trajectory

OVERLONG = "overlong"
"""The penalty's name in the breakdown."""
_TOLERANCE = 1e-9
_SHOWN = 3  # prompts that an error names for each component


@dataclass(frozen=True, kw_only=True, slots=True)
class CombinedReward:
    """Several rewards as one.

    sum: sum of weight * value (not divided by the weights). product: product of value ** weight,
    each value in [0, 1]. The overlong penalty is added afterwards. A missing component makes the
    whole missing; an invalid one enters with the floor that its scorer gave, and makes the whole
    invalid; one that does not apply is left out, where others do. The breakdown has each component's own
    value, what functions logged, and "overlong" the raw penalty. The agreement is the smallest of the
    components'.

    `weights` are those of everything in the breakdown, with a penalty also that of OVERLONG. `gate` names
    components that an answer must fully pass before the panel sees it (see gate.py). `thresholds` are those
    of single components, by name, in the place of `threshold`. `grader` grades the steps of wrong answers in
    training (steps/); no part of the reward.
    """

    components: tuple[Reward, ...]
    weights: Mapping[str, float]
    combine: Literal["sum", "product"] = "sum"
    threshold: float = 1.0
    overlong: Overlong | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    gate: tuple[str, ...] = ()
    grader: Reward | None = None

    @property
    def name(self) -> str:
        return "reward"

    @property
    def component_names(self) -> tuple[str, ...]:
        """The components in order, penalties excluded."""
        return tuple(component.name for component in self.components)

    @property
    def panel(self) -> Panel | None:
        """The judges, where there are any."""
        return next((component for component in self.components if isinstance(component, Panel)), None)

    @property
    def relative(self) -> bool:
        """Whether scores compare only within one group: a component of a weight above 0 is relative."""
        return any(getattr(c, "relative", False) and self.weights[c.name] > 0 for c in self.components)

    @property
    def top(self) -> float | None:
        """The highest reward there is, for components in [0, 1]; None where scores are relative."""
        if self.relative:
            return None
        if self.combine == "product":
            return 1.0
        return math.fsum(weight for name in self.component_names if (weight := self.weights[name]) > 0)

    def check_prompt(self, prompt: Prompt) -> None:
        if problems := list(self._problems(prompt).values()):
            raise UserError("\n".join(problems))

    def check_data(self, prompts: Iterable[Prompt]) -> None:
        """Raise a UserError that names, for every component, the prompts that lack what it needs."""
        found: dict[str, list[str]] = {}
        for prompt in prompts:
            for name, problem in self._problems(prompt).items():
                found.setdefault(name, []).append(problem)
        lines = []
        for problems in found.values():
            lines += problems[:_SHOWN]
            if len(problems) > _SHOWN:
                lines.append(f"... and so for {len(problems) - _SHOWN} more prompts")
        if lines:
            raise UserError("\n".join(lines))

    def _problems(self, prompt: Prompt) -> dict[str, str]:
        """What components lack in a prompt, by the component's name ("" for what grades steps)."""
        found: dict[str, str] = {}
        for component in self.components:
            try:
                component.check_prompt(prompt)
            except UserError as error:
                found[component.name] = f"component `{component.name}` cannot score this: {error}"
        if self.grader is not None:
            try:
                self.grader.check_prompt(prompt)
            except UserError as error:
                found[""] = str(error)
        return found

    def success(self, score: Score) -> bool:
        """Whether every component that is wanted (weight above 0) reaches the threshold, penalties apart."""
        wanted = [n for n in self.component_names if self.weights[n] > 0 and n in score.breakdown]
        return (
            score.status == "scored"
            and bool(wanted)
            and all(
                score.breakdown[name] >= self.thresholds.get(name, self.threshold) - _TOLERANCE
                for name in wanted
            )
        )

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score a trajectory, in the same order; components that wait do so at the same time. Those whose
        world failed are missing, and no component sees them. What stops a whole run (MachineError,
        GuardStop) is let through."""
        failed = {n: score for n, t in enumerate(trajectories) if (score := of_failed(t))}
        whole = [t for n, t in enumerate(trajectories) if n not in failed]
        found = iter(await self._score_whole(prompt, whole) if whole else ())
        return [failed[n] if n in failed else next(found) for n in range(len(trajectories))]

    async def _score_whole(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        columns: dict[str, list[Score]] = {}
        gate = [c for c in self.components if c.name in self.gate]
        others = [c for c in self.components if c.name not in self.gate]
        for components in (gate, others):
            found = await all_of(self._scores_of(c, prompt, trajectories, columns) for c in components)
            columns.update(zip([c.name for c in components], found, strict=True))
        return [
            self._combined(trajectory, {name: columns[name][member] for name in self.component_names})
            for member, trajectory in enumerate(trajectories)
        ]

    async def _scores_of(
        self,
        component: Reward,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        before: Mapping[str, Sequence[Score]],
    ) -> list[Score]:
        if self.gate and isinstance(component, Panel):
            work = gated(component, {name: before[name] for name in self.gate}, prompt, trajectories)
        else:
            work = component.score_group(prompt, trajectories)
        return await scored(work, len(trajectories))

    def _combined(self, trajectory: Trajectory, scores: Mapping[str, Score]) -> Score:
        agreements = [score.agreement for score in scores.values() if score.agreement is not None]
        combined = self._valued(trajectory, scores)
        return replace(combined, agreement=min(agreements)) if agreements else combined

    def _valued(self, trajectory: Trajectory, scores: Mapping[str, Score]) -> Score:
        logged = {n: v for s in scores.values() for n, v in s.breakdown.items() if n.startswith(LOGGED)}
        had = {name: score.value for name, score in scores.items() if score.value is not None}
        explained = {name: f"{name}: {_explain(score)}" for name, score in scores.items()}
        failed = [name for name, s in scores.items() if s.value is None and not left_out(s)]
        if failed or not had:
            # What failed first: the beginning is what a person is shown.
            order = dict.fromkeys([*failed, *explained])
            return Score.missing("\n".join(explained[name] for name in order), had)
        explanation = "\n".join(explained.values())
        if self.combine == "product":
            outside = [n for n, v in had.items() if not -_TOLERANCE <= v <= 1 + _TOLERANCE]
            if outside:
                why = f'{", ".join(outside)} must be in [0, 1] in a product; scale it, or use combine = "sum"'
                return Score.missing(f"{why}\n{explanation}", had)
            value = math.prod(min(1.0, max(0.0, v)) ** self.weights[n] for n, v in had.items())
        else:
            value = sum(self.weights[name] * v for name, v in had.items())
            if not abs(value) <= LARGEST:
                return Score.missing(f"the sum is too large for a number\n{explanation}", had)
        if self.overlong is not None:
            had[OVERLONG] = self.overlong.penalty(trajectory)
            value += self.weights[OVERLONG] * had[OVERLONG]
            if had[OVERLONG] < 0:
                explanation += f"\n{OVERLONG}: {had[OVERLONG]:g}"
        invalid = any(score.status == "invalid" for score in scores.values())
        return Score(
            value=value,
            status="invalid" if invalid else "scored",
            breakdown={**had, **logged},
            explanation=explanation,
        )


def _explain(score: Score) -> str:
    if left_out(score):
        return score.explanation
    if score.value is None:
        return f"missing: {score.explanation}"
    text = score.explanation or f"{score.value:g}"
    return f"invalid: {text}" if score.status == "invalid" else text
