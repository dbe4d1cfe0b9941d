"""Wrong answers graded by their steps, where no answer of a group is right (arXiv 2505.11595, SGPO).

A group whose answers are all wrong has nothing to compare. Here each of its answers gets a share: the number
of its steps before the first wrong one, over all its steps. The reward stays as it was given; the share
stands in the breakdown as RIGHT_STEPS, and `grpo.advantage.by_steps` makes advantages of it.

Two ways of grading: step by step with rules and a function (`Checked`), or by judges that name the first
wrong step of an answer (judge.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refine_rl.errors import MEND, GuardStop, SettingsError, UserError
from refine_rl.llm.background import all_of
from refine_rl.rewards.base import Around, Reward, scored
from refine_rl.rewards.functions.answers import left_out
from refine_rl.rewards.functions.own import function_reward, load_function
from refine_rl.rewards.rules.table import rule_reward
from refine_rl.rewards.text.patterns import TooSlow, pattern
from refine_rl.settings import StepSettings
from refine_rl.types import RIGHT_STEPS, Prompt, Score, Trajectory, reaches, same_value

EARLIER = "earlier_steps"
"""The name by which a function gets the steps before the one that it grades."""

_TOLERANCE = 1e-9
_LONGEST = 120  # characters of a wrong step in an explanation


def steps_of(text: str, split: str) -> list[str]:
    """What stands between the matches of `split`, stripped; empty steps do not count. Raises TooSlow.

    >>> steps_of("2 + 3 = 5\\n\\n5 + 4 = 8\\n", r"\\n+")
    ['2 + 3 = 5', '5 + 4 = 8']
    """
    return [piece.strip() for piece in pattern(split).split(text) if piece and piece.strip()]


def right_steps(right: int, steps: int, *, why: str = "") -> Score:
    """The share of an answer of `steps` steps whose first `right` are right; 0 where it has none.

    >>> right_steps(2, 4, why="false")
    Score(value=0.5, status='scored', breakdown={}, explanation='2 of 4 steps, then: false', agreement=None)
    """
    explanation = f"{right} of {steps} steps" + (f", then: {why}" if why else "")
    return Score(value=right / steps if steps else 0.0, explanation=explanation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Each step held against rules and a function; right is what gets 1 from all of them. What comes after
    the first wrong step is not looked at. A check that fails makes the answer's share missing."""

    checks: tuple[Reward, ...]
    split: str
    name: str = RIGHT_STEPS

    def check_prompt(self, prompt: Prompt) -> None:
        for check in self.checks:
            try:
                check.check_prompt(_with_steps(prompt, []))
            except UserError as error:
                raise UserError(f"reward.steps: `{check.name}` cannot grade steps of this: {error}") from None

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        return [await self._share(prompt, trajectory) for trajectory in trajectories]

    async def _share(self, prompt: Prompt, trajectory: Trajectory) -> Score:
        try:
            steps = steps_of(trajectory.completion, self.split)
        except TooSlow as error:
            return Score.missing(str(error))
        for before, step in enumerate(steps):
            asked = _with_steps(prompt, steps[:before])
            alone = replace(trajectory, messages=(*prompt.messages, {"role": "assistant", "content": step}))
            columns = await all_of(check.score_group(asked, [alone]) for check in self.checks)
            for check, (score,) in zip(self.checks, columns, strict=True):
                if left_out(score):
                    continue
                if score.value is None:
                    return Score.missing(f"step {before + 1}: {check.name}: {score.explanation}")
                if score.value < 1 - _TOLERANCE:
                    return right_steps(before, len(steps), why=f"{check.name}: {step[:_LONGEST]!r}")
        return right_steps(len(steps), len(steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded(Around):
    """A reward that grades steps as well, for training: where all rewards of a group are equal and below
    `solved`. Whatever else is scored (validation, comparison, sanity cases) costs nothing more."""

    grader: Reward
    solved: float

    def check_prompt(self, prompt: Prompt) -> None:
        self.reward.check_prompt(prompt)
        self.grader.check_prompt(prompt)

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        """The reward's scores, in the same order; raises GuardStop where the steps of no answer could be
        graded, as then nothing ever would be."""
        scores = await self.reward.score_group(prompt, trajectories)
        values = [score.value for score in scores if score.value is not None]
        if len(values) < 2 or not same_value(values) or reaches(values[0], self.solved):
            return scores
        wrong = [t for t, score in zip(trajectories, scores, strict=True) if score.value is not None]
        grades = await scored(self.grader.score_group(prompt, wrong), len(wrong))
        if all(grade.value is None for grade in grades):
            raise GuardStop(
                "missing",
                f"Prompt {prompt.id}: the steps of none of its {len(grades)} wrong answers could be graded. "
                f"The first reason:\n{grades[0].explanation}\n",
                MEND,
            )
        of_member = iter(grades)
        return [score if score.value is None else _noted(score, next(of_member)) for score in scores]


def _noted(score: Score, grade: Score) -> Score:
    """The score as it was given, with the steps in its breakdown."""
    if grade.value is None:
        why = f"{RIGHT_STEPS}: missing: {grade.explanation}"
        return replace(score, explanation=f"{score.explanation}\n{why}")
    return replace(
        score,
        breakdown={**score.breakdown, RIGHT_STEPS: grade.value},
        explanation=f"{score.explanation}\n{RIGHT_STEPS}: {grade.explanation}",
    )


def step_checks(table: StepSettings, folder: Path, timeout: float) -> tuple[Reward, ...]:
    """The rules and the function that [reward.steps] names, its file in `folder`. Raises SettingsError."""
    checks: list[Reward] = [
        rule_reward(rule, where=f"reward.steps.rules, entry {number}", folder=folder)
        for number, rule in enumerate(table.rules, start=1)
    ]
    if table.function:
        try:
            function = load_function(table.function, folder, {})
            checks.append(function_reward(function, timeout=timeout))
        except SettingsError as error:
            raise SettingsError(f"reward.steps.function: {error}") from None
    return tuple(checks)


def _with_steps(prompt: Prompt, steps: Sequence[str]) -> Prompt:
    return replace(prompt, data={**prompt.data, EARLIER: list(steps)})
