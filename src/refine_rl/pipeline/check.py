"""The whole reward of a task on example answers: no training, and no model that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from refine_rl.envs.stage import Stage, stage_of
from refine_rl.errors import GuardStop, MachineError, RefineError, Together, UserError
from refine_rl.llm.connections import EndpointConnections
from refine_rl.llm.meter import meter
from refine_rl.pipeline.check_answers import Case, Try, given_answers, made_up, read_answers
from refine_rl.pipeline.check_findings import Finding, failed_components, findings
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.prompts import load_prompts
from refine_rl.recipes.examples import require_own_reward
from refine_rl.rewards.base import untokenized
from refine_rl.rewards.build import build_reward, isolation_of
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.nearness import NEARNESS
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run.endpoints import check_models, connect
from refine_rl.settings import Settings
from refine_rl.training.grpo.setup import advantages_of
from refine_rl.types import Message, Prompt, Score, Trajectory

PROMPTS = 3  # of training, that answers are made up for
_MOST_TOGETHER = 64  # answers of one prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """An answer with what the reward made of it, and the advantage that it would have in its group (None
    where its score is missing)."""

    answer: Try
    score: Score
    advantage: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt with its answers, scored together."""

    prompt: Prompt
    answers: tuple[Answered, ...]
    is_sanity: bool = False  # a pair of [[reward.sanity]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What the reward made of all answers. `components` are its names in order, with their `weights`; `top`
    is the highest reward there is, None where that is not known. `spread` is the mean standard deviation of
    the rewards within a prompt (None where no prompt has two). `failed` holds, by component, why it could not
    score; `asking` are those that ask an LLM. `cost_usd` is None where a price is unknown."""

    groups: tuple[Group, ...]
    components: tuple[str, ...]
    weights: Mapping[str, float]
    relative: bool
    top: float | None
    spread: float | None
    findings: tuple[Finding, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    asking: frozenset[str] = frozenset()
    calls: int = 0
    cost_usd: float | None = 0.0

    def problem(self) -> RefineError | None:
        """Why training could not begin so: a component that raised, a sanity case that is ordered wrongly, or
        judges of whom nothing could be used. None where it could."""
        together = [f"`{name}`: {why}" for name, why in self.failed.items() if name not in self.asking]
        together += [f.text for f in self.findings if f.name == "sanity"]
        if together:
            return UserError("The reward cannot be used as it is:\n" + "\n".join(together))
        scores = [a.score for group in self.groups for a in group.answers]
        if self.failed and all(score.value is None for score in scores):
            why = next(iter(self.failed.values()))
            return MachineError(f"No answer could be scored. The first reason:\n{why}")
        return None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A reward and the answers that it is to be tried on; nothing was asked or scored yet."""

    settings: Settings
    reward: CombinedReward
    cases: Sequence[Case]
    stage: Stage | None
    connections: EndpointConnections
    notes: Sequence[str]

    def scored(self, pause: Pause = never) -> Checked:
        """Scores every answer. Raises GuardStop where the budget is used up, MachineError where an endpoint
        is down."""
        groups = [self._attempts(case) for case in self.cases]
        try:
            with meter() as counted, ScoringLoop(closing=self.connections.close) as loop:
                scores = loop.score(
                    self.reward, [(c.prompt, g) for c, g in zip(self.cases, groups, strict=True)], pause
                )
        except GuardStop as stop:
            twice = 2 * (self.settings.budget.dollars or 0.5)
            advice = f"Go on with --set budget.dollars={twice:g}: what was paid for is in the cache."
            raise GuardStop(stop.guard, stop.what, advice) from stop
        asking = frozenset(c.name for c in self.reward.components if _asks(c))
        failed = failed_components(self.reward.component_names, [s for group in scores for s in group])
        found = tuple(
            _group(case, attempts, group, self.settings, self.reward)
            for case, attempts, group in zip(self.cases, groups, scores, strict=True)
        )
        return Checked(
            groups=found,
            components=self.reward.component_names,
            weights=dict(self.reward.weights),
            relative=self.reward.relative,
            top=self.reward.top,
            spread=_spread(scores),
            findings=tuple(
                findings(
                    [(c, [a.score for a in g.answers]) for c, g in zip(self.cases, found, strict=True)],
                    components=self.reward.component_names,
                    weights=self.reward.weights,
                    top=self.reward.top,
                )
            ),
            failed=failed,
            asking=asking,
            calls=counted.calls,
            cost_usd=counted.cost_usd,
        )

    def _attempts(self, case: Case) -> tuple[Trajectory, ...]:
        if self.stage is not None:
            from refine_rl.envs.recite import recite

            return tuple(recite(self.stage, case.prompt, [_turns(answer) for answer in case.tries]))
        texts = [answer.said if isinstance(answer.said, str) else "" for answer in case.tries]
        plain = untokenized(case.prompt, texts)
        return tuple(_with_messages(t, a) for t, a in zip(plain, case.tries, strict=True))


def lay_out(
    settings: Settings,
    *,
    answers: Path | Sequence[Mapping[str, Any]] | None = None,
    count: int = PROMPTS,
    functions: Sequence[Callable[..., Any]] = (),
    observer: Observer | None = None,
    pause: Pause = never,
) -> Trial:
    """The reward of a task and what to try it on: the `answers` of a file or of rows, or made-up ones for
    `count` training prompts. `functions` are reward functions that are given from Python.

    Raises UserError for everything that is wrong with the task, its prompts or the answers, before anybody is
    asked.
    """
    listen = observer or Quiet()
    if settings.sft is not None and not settings.scored:
        raise UserError("this task imitates answers ([sft]) and has no reward that could be looked at.")
    connections = connect(settings, None, listen.warning)
    notes: list[str] = []
    if settings.reward.rubric == "write":
        notes.append("The rubric is still to be written: the judges go by the default one here.")
    together = Together()
    reward: CombinedReward | None = None
    stage: Stage | None = None
    prompts: list[Prompt] = []
    with together:
        check_models(settings, connections)
        reward = build_reward(settings, functions, connections)
    with together:
        stage = stage_of(settings.rollout, settings.folder)
    with together:
        require_own_reward(settings.reward, task=settings.task, folder=settings.folder)
    if not settings.writes_prompts and (settings.prompts.source or answers is None):
        with together:
            prompts, _ = load_prompts(settings, note=listen.note, pause=pause)
    together.tell()
    assert reward is not None
    if NEARNESS in reward.component_names:
        raise UserError(
            "this task has no reward but nearness to its teacher ([teacher]), which is measured on tokens "
            "that a model samples: there is nothing to try on texts. `refine train` measures it."
        )
    cases = _cases(settings, answers, prompts, count)
    if stage is not None:
        _require_turns(cases)
    reward.check_data([case.prompt for case in cases])
    if told := isolation_of(reward):
        notes.append(told)
    if settings.reward.overlong is not None and settings.reward.overlong.unit == "tokens":
        notes.append("No answer is tokenized here, so the penalty on long answers (overlong) does not act.")
    if held_out := [c.prompt.id for c in cases if c.prompt.split == "held_out"]:
        notes.append(
            f"{', '.join(held_out[:3])}: held out. A reward that is made to fit them is no longer measured "
            "on unseen prompts; better take prompts of training."
        )
    return Trial(
        settings=settings,
        reward=reward,
        cases=cases,
        stage=stage,
        connections=connections,
        notes=notes,
    )


def _cases(
    settings: Settings,
    answers: Path | Sequence[Mapping[str, Any]] | None,
    prompts: Sequence[Prompt],
    count: int,
) -> list[Case]:
    system = settings.prompts.system
    if isinstance(answers, Path):
        cases = read_answers(answers, prompts, system=system)
    elif answers is not None:
        cases = given_answers(answers, prompts, system=system)
    else:
        cases = made_up(settings, prompts, count)
    if not cases:
        raise UserError(
            "the writer has not written this task's prompts yet, so there is nothing to answer: name answers "
            "with --answers FILE, or write the prompts first (refine prompts TASK --out FILE)."
        )
    for case in cases:
        if len(case.tries) > _MOST_TOGETHER:
            raise UserError(
                f"{case.prompt.id} has {len(case.tries)} answers, and at most {_MOST_TOGETHER} are scored "
                "together: put them on several lines."
            )
    return cases


def _require_turns(cases: Sequence[Case]) -> None:
    for case in cases:
        if any(not isinstance(a.said, str) and not isinstance(a.said[0], str) for a in case.tries):
            raise UserError(
                f"{case.prompt.id}: what is said in a world is a text (for every turn) or a list of texts "
                "(one a turn); the world's own words come from it, not from a list of messages."
            )


def _turns(answer: Try) -> str | tuple[str, ...]:
    if isinstance(answer.said, str):
        return answer.said
    return tuple(one if isinstance(one, str) else one["content"] for one in answer.said)


def _with_messages(t: Trajectory, answer: Try) -> Trajectory:
    """Where an answer has several messages, all of them in the place of the one."""
    if isinstance(answer.said, str):
        return t
    said: list[Message] = [
        {"role": "assistant", "content": one} if isinstance(one, str) else one for one in answer.said
    ]
    return Trajectory(
        prompt_id=t.prompt_id,
        member=t.member,
        messages=(*t.messages[:-1], *said),
        segments=t.segments,
        stop_reason=t.stop_reason,
    )


def _spread(scores: Sequence[Sequence[Score]]) -> float | None:
    """The mean standard deviation of the rewards within a prompt."""
    groups = [[s.value for s in group if s.value is not None] for group in scores]
    several = [pstdev(values) for values in groups if len(values) > 1]
    return fmean(several) if several else None


def _asks(component: object) -> bool:
    """Whether an LLM has a say in a component."""
    from refine_rl.rewards.judges.panel import Panel
    from refine_rl.rewards.quiz.quiz import Quiz

    return isinstance(component, Panel | Quiz)


def _group(
    case: Case,
    attempts: tuple[Trajectory, ...],
    scores: Sequence[Score],
    settings: Settings,
    reward: CombinedReward,
) -> Group:
    """What GRPO would make of the answers, if they were a group of its own."""
    make = advantages_of(settings, reward.weights)
    (advantages,) = make([(case.prompt, attempts, tuple(scores))])
    return Group(
        prompt=case.prompt,
        answers=tuple(
            Answered(answer=answer, score=score, advantage=advantage)
            for answer, score, advantage in zip(case.tries, scores, advantages, strict=True)
        ),
        is_sanity=case.is_sanity,
    )
