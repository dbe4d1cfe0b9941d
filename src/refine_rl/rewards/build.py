"""Settings -> the scorers of a run: who scores in training, in validation and in the exam.

Only here are rewards made of whole settings; everything else is handed what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from refine_rl.errors import SettingsError
from refine_rl.foreign.load import nearest
from refine_rl.llm.client import Connections
from refine_rl.rewards.base import Reward, Scorer
from refine_rl.rewards.code.reward import CodeReward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.decayed import Decayed
from refine_rl.rewards.eye import Eye, build_eye
from refine_rl.rewards.judges.build import make_judging, make_panel, make_referee
from refine_rl.rewards.judges.panel import Panel
from refine_rl.rewards.judges.rubric import rubric_named
from refine_rl.rewards.nearness import NEARNESS, SUCCESS, Nearness
from refine_rl.rewards.overlong import Overlong
from refine_rl.rewards.parts import Part, rules_and_functions, unique_names, weights_of
from refine_rl.rewards.reasoning_gym import reasoning_gym_reward, require_reasoning_gym
from refine_rl.rewards.steps.steps import Checked, Graded, step_checks
from refine_rl.rewards.text.patterns import pattern
from refine_rl.rewards.world import WorldReward
from refine_rl.settings import Settings, TeacherSettings
from refine_rl.types import RIGHT_STEPS

if TYPE_CHECKING:
    from refine_rl.rewards.judges.duels import Referee
    from refine_rl.rewards.quiz.quiz import Quiz, Shelf

Functions = Sequence[Callable[..., Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorers:
    """The scorers of a run. `validation` is the reward as the settings describe it; `training` may grade
    steps, or pay by the order of right answers, on top of it; `exam` is validation itself unless
    `evaluate.judge` is named in its judges' place. A `referee` compares the answers of two models; another
    `eye` looks at validation answers."""

    training: Scorer
    validation: CombinedReward
    exam: CombinedReward
    referee: Referee | None = None
    eye: Eye | None = None


def build_scorers(
    settings: Settings,
    functions: Functions = (),
    connections: Connections | None = None,
    rubric: str = "",
    shelf: Shelf | None = None,
) -> Scorers:
    """The scorers that the settings and the given Python functions describe; see `build_reward`. A rubric
    that cannot be read is refused also where nobody judges."""
    rubric = rubric or rubric_named(settings.reward.rubric, settings.folder)
    reward = exam = build_reward(settings, functions, connections, rubric, shelf)
    if settings.evaluate.judge and settings.reward.judges:
        judges = settings.reward.model_copy(update={"judges": [settings.evaluate.judge]})
        judge = settings.judge.model_copy(update={"larger": "", "adaptive": False})
        other = settings.model_copy(update={"reward": judges, "judge": judge})
        exam = build_reward(other, functions, connections, rubric, shelf)
    training: Scorer = reward
    if reward.grader is not None and settings.grpo.solved is not None:
        training = Graded(reward=training, grader=reward.grader, solved=settings.grpo.solved)
    if settings.rollout.decays:
        training = Decayed(reward=training)
    referee = build_referee(settings, connections, rubric)
    eye = build_eye(settings, reward, connections, rubric)
    return Scorers(training=training, validation=reward, exam=exam, referee=referee, eye=eye)


def panels(scorers: Scorers) -> dict[str, Panel]:
    """Everybody who judges, by the setting that names them."""
    found = {"reward.judges": scorers.validation.panel, "reward.steps.judges": scorers.validation.grader}
    if scorers.exam is not scorers.validation:
        found["evaluate.judge"] = scorers.exam.panel
    elif scorers.referee is not None and scorers.exam.panel is None:
        found["evaluate.judge"] = scorers.referee.panel
    elif scorers.eye is not None and scorers.eye.reward is not None and scorers.exam.panel is None:
        found["evaluate.judge"] = scorers.eye.reward.panel
    return {role: panel for role, panel in found.items() if isinstance(panel, Panel)}


def quiz_of(reward: CombinedReward) -> Quiz | None:
    """The quiz among a reward's components, where there is one."""
    from refine_rl.rewards.quiz.quiz import Quiz

    return next((component for component in reward.components if isinstance(component, Quiz)), None)


def isolation_of(reward: CombinedReward) -> str:
    """What a person is to be told of how the model's programs are isolated here: "" where none is run, or all
    is. Raises what `CodeReward.isolated` raises."""
    told = [component.isolated() for component in reward.components if isinstance(component, CodeReward)]
    return "\n".join(text for text in told if text)


def build_reward(
    settings: Settings,
    functions: Functions = (),
    connections: Connections | None = None,
    rubric: str = "",
    shelf: Shelf | None = None,
) -> CombinedReward:
    """The reward that the settings and the given Python functions describe.

    A component is called by its table's `name`, else by its rule or function, "judge" or "quiz"; where two
    are called the same, the second gets "-2". Judges and a quiz are asked through `connections`; `rubric`
    is what judges go by (without it, what the settings name), and a quiz keeps its questions on `shelf`.
    Raises SettingsError for everything that cannot be scored so, before a model is loaded.
    """
    reward = settings.reward
    plain = [*rules_and_functions(reward, settings.folder, functions), *_reasoning_gym(settings)]
    if settings.rollout.environment:
        weight = 1.0 if reward.world is None else reward.world.weight
        plain = [Part(reward=WorldReward.of(reward.world), weight=weight, named=True), *plain]
    parts = [*plain, *_asking_parts(settings, connections, rubric, shelf)]
    if not parts and settings.teacher is not None and not settings.teacher.itself:
        parts = _of_teacher(settings, settings.teacher)
    if not parts:
        alone = (
            "" if settings.sft is None else "\nThe answers of [sft] are imitated without one: refine sft TASK"
        )
        raise SettingsError(
            "nothing says what is good: add a rule, a function or a judge to the task file, for example\n"
            f'[reward]\nrules = [{{rule = "words", max = 20}}]{alone}'
        )
    names = unique_names(parts)
    nearness = {NEARNESS: SUCCESS} if isinstance(parts[0].reward, Nearness) else {}
    return CombinedReward(
        components=tuple(
            replace(cast(Any, part.reward), name=name) for part, name in zip(parts, names, strict=True)
        ),
        weights=weights_of(parts, names, reward),
        combine=reward.combine,
        threshold=reward.success,
        thresholds=dict.fromkeys(names[len(plain) :], settings.judge.success) | nearness,
        gate=_gate(settings, names[: len(plain)]),
        overlong=Overlong(reward.overlong, settings.rollout.most_tokens) if reward.overlong else None,
        grader=build_grader(settings, connections),
    )


def _of_teacher(settings: Settings, teacher: TeacherSettings) -> list[Part]:
    """What is good where a teacher alone says so. Raises SettingsError where it shares with rewards."""
    if settings.evaluate.rivals:
        raise SettingsError(
            "evaluate.rivals are made by a reward, and there is none but nearness to the teacher. Leave them "
            "out, or add a rule, a function or a judge."
        )
    if settings.reward.combine == "product":
        raise SettingsError(
            '`reward.combine = "product"` multiplies components, and nearness to a teacher is the only one. '
            "Leave it out."
        )
    if teacher.share < 1:
        raise SettingsError(
            f"teacher.share is {teacher.share:g}: the rest is for rewards, and there are none. Add a rule, a "
            "function or a judge, or leave it out."
        )
    return [Part(reward=Nearness())]


def _reasoning_gym(settings: Settings) -> list[Part]:
    table = settings.reasoning_gym
    if table is None:
        return []
    require_reasoning_gym()
    reward = reasoning_gym_reward(table.answer, settings.reward.timeout)
    return [Part(reward=reward, weight=table.weight)]


def _asking_parts(
    settings: Settings, connections: Connections | None, rubric: str, shelf: Shelf | None
) -> list[Part]:
    """The components that ask an LLM."""
    judges, quiz = settings.reward.judges, settings.reward.quiz
    if not judges and quiz is None:
        return []
    if connections is None:
        key = "reward.judges" if judges else "reward.quiz"
        raise SettingsError(f"{key}: an LLM scores here, and no connections to endpoints were given")
    parts: list[Part] = []
    if judges:
        parts.append(Part(reward=build_panel(settings, connections, rubric), weight=settings.judge.weight))
    if quiz is not None:
        parts.append(Part(reward=build_quiz(settings, connections, shelf), weight=quiz.weight))
    return parts


def _gate(settings: Settings, names: Sequence[str]) -> tuple[str, ...]:
    """The components before the judges, checked."""
    for name in settings.judge.gate:
        if name not in names:
            raise SettingsError(f"judge.gate: there is no rule or function `{name}`{nearest(name, names)}")
    return tuple(settings.judge.gate) if settings.reward.judges else ()


def build_panel(settings: Settings, connections: Connections, rubric: str = "") -> Panel:
    """The panel that [reward] and [judge] describe. `rubric` is the text to judge by; without it, the one
    that the settings name (the general one as long as the writer has not written it).

    Raises SettingsError for a model that cannot be reached from the settings, or for a rubric that cannot
    be read.
    """
    judge = settings.judge
    return make_panel(
        judge,
        [connections.client(model) for model in settings.reward.judges],
        task=settings.task,
        rubric=rubric or rubric_named(settings.reward.rubric, settings.folder),
        seed=settings.grpo.seed,
        larger=connections.client(judge.larger) if judge.larger else None,
    )


def build_referee(settings: Settings, connections: Connections | None, rubric: str = "") -> Referee | None:
    """Who decides the metric "win_rate": the judge of the comparison, else those of the reward; None where it
    is not measured."""
    if "win_rate" not in settings.evaluate.metrics:
        return None
    if connections is None:
        raise SettingsError(
            'evaluate.metrics: a judge decides "win_rate", and no connections to endpoints were given'
        )
    models = [settings.evaluate.judge] if settings.evaluate.judge else settings.reward.judges
    return make_referee(
        settings.judge,
        [connections.client(model) for model in models],
        task=settings.task,
        rubric=rubric or rubric_named(settings.reward.rubric, settings.folder),
        seed=settings.grpo.seed,
    )


def build_quiz(settings: Settings, connections: Connections, shelf: Shelf | None = None) -> Quiz:
    """The quiz that [reward.quiz] describes, without its weight; its questions are kept on `shelf`.

    The writer is sampled as [writer] says, the reader as [judge] says. Raises SettingsError where
    nobody is named to write the questions, or a model cannot be reached from the settings.
    """
    from refine_rl.rewards.quiz.questions import Asking
    from refine_rl.rewards.quiz.quiz import Quiz

    quiz, judge = settings.reward.quiz, settings.judge
    if quiz is None:
        raise ValueError("the settings have no [reward.quiz]")
    writer = quiz.writer or settings.writer.model
    if not writer:
        raise SettingsError(
            'reward.quiz: nobody writes the questions; set `reward.quiz.writer = "ENDPOINT/MODEL"` '
            "(or `writer.model`)"
        )
    reader = quiz.reader or next(iter(settings.reward.judges), writer)
    writing, reading = (
        Asking(
            client=connections.client(model),
            seed=settings.grpo.seed,
            temperature=sampled.temperature,
            max_tokens=sampled.max_tokens,
            corrections=judge.corrections,
        )
        for model, sampled in ((writer, settings.writer), (reader, judge))
    )
    return Quiz(
        writer=writing,
        reader=reading,
        task=settings.task,
        source=quiz.source,
        questions=quiz.questions,
        options=quiz.options,
        max_copied=quiz.max_copied,
        shelf=shelf,
    )


def build_grader(settings: Settings, connections: Connections | None) -> Reward | None:
    """What grades steps, as [reward.steps] says; None without the table. Raises SettingsError where a rule, a
    function or a judge cannot be had."""
    table = settings.reward.steps
    if table is None:
        return None
    try:
        pattern(table.split)
    except re.error as error:
        raise SettingsError(f"reward.steps.split: is no regular expression: {error}") from None
    if not table.judges:
        checks = step_checks(table, settings.folder, settings.reward.timeout)
        return Checked(checks=checks, split=table.split)
    if connections is None:
        raise SettingsError(
            "reward.steps.judges: an LLM grades here, and no connections to endpoints were given"
        )
    from refine_rl.rewards.steps.judge import StepJudging

    judge = settings.judge
    judging = make_judging(StepJudging, judge, task=settings.task, seed=settings.grpo.seed, split=table.split)
    judges = tuple(connections.client(model) for model in table.judges)
    return Panel(name=RIGHT_STEPS, judging=judging, judges=judges, repeats=judge.repeats)
