"""One step's data: which prompts, their scored groups, and the advantages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from refine_rl.errors import MEND, GuardStop
from refine_rl.evaluate.variety import variety
from refine_rl.progress import wait
from refine_rl.randomness import generator
from refine_rl.settings import Settings
from refine_rl.training.grpo.advantages import (
    by_sign,
    by_steps,
    gdpo,
    leave_one_out,
    mean_only,
    root_mean_square,
    zscore,
)
from refine_rl.training.learn import kl_per_token
from refine_rl.training.rows import MemberKey, sampled_logprobs
from refine_rl.types import RIGHT_STEPS, Group, Prompt, Score, Trajectory, mean_of, same_value

Finished = Callable[[int, tuple[Trajectory, ...]], None]
"""Told a prompt's place and its group as soon as the group is whole."""

Sampler = Callable[[Sequence[Prompt], int, Finished], list[tuple[Trajectory, ...]]]
"""(prompts, step, finished) -> the trajectories of each prompt."""

Scorer = Callable[[Prompt, Sequence[Trajectory]], Future[list[Score]]]
"""Takes a group and promises its scores; many groups may be under way at once."""

Sampled = tuple[Prompt, tuple[Trajectory, ...], tuple[Score, ...]]


def choose_prompts(prompts: Sequence[Prompt], step: int, per_step: int, seed: int) -> list[Prompt]:
    """The prompts of step 1, 2 ...: each pass over the prompts has an order of its own, and a step
    never holds a prompt twice (the few left over at the end of a pass wait for the next)."""
    steps_per_pass = len(prompts) // per_step
    which_pass, place = divmod(step - 1, steps_per_pass)
    order = generator(seed, "order", which_pass).permutation(len(prompts))
    return [prompts[i] for i in order[place * per_step : (place + 1) * per_step]]


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A step's groups: sampled, and being scored. `promised` has a future for each of them."""

    prompts: Sequence[Prompt]
    groups: Sequence[tuple[Trajectory, ...]]
    promised: Sequence[Future[list[Score]]]

    def scored(self, pause: Callable[[], None]) -> list[Sampled]:
        """Waits for the scores. The order in which they come is of no account."""
        scores = [wait(future, pause) for future in self.promised]
        return [
            (prompt, group, tuple(its))
            for prompt, group, its in zip(self.prompts, self.groups, scores, strict=True)
        ]


def start(prompts: Sequence[Prompt], step: int, *, sample: Sampler, score: Scorer) -> UnderWay:
    """Samples one group a prompt; each goes to be scored as soon as it is whole."""
    promised: dict[int, Future[list[Score]]] = {}

    def finished(place: int, group: tuple[Trajectory, ...]) -> None:
        promised[place] = score(prompts[place], group)

    groups = sample(prompts, step, finished)
    return UnderWay(prompts=prompts, groups=groups, promised=[promised[i] for i in range(len(prompts))])


def require_scores(scores: Sequence[Score], max_missing: float, where: str) -> None:
    """Raises GuardStop where more than `max_missing` of the scores could not be had."""
    missing = [s for s in scores if s.status == "missing"]
    if len(missing) > max_missing * len(scores):
        raise GuardStop(
            "missing",
            f"{where}: {len(missing)} of {len(scores)} scores are missing "
            f"(allowed: {max_missing:.0%}, reward.max_missing). The first reason:\n"
            f"{missing[0].explanation}\n",
            f"A missing score is never counted as 0. {MEND}",
        )


def with_advantages(
    sampled: Sequence[Sampled],
    step: int,
    settings: Settings,
    *,
    component_weights: Mapping[str, float],
    references: Mapping[MemberKey, tuple[float, ...]],
) -> list[Group]:
    """Groups with the advantages that `grpo.advantage` asks for; `grpo.flat` says what becomes of a group
    that has none.

    With `grpo.kl_in = "reward"`, kl * (the KL estimate summed over the trajectory's tokens) is taken
    off for the advantage; the recorded reward stays what was given.
    """
    g = settings.grpo
    if g.advantage == "gdpo":
        advantages = gdpo(
            [scores for _, _, scores in sampled],
            component_weights,
            deviation=g.deviation,
            epsilon=g.epsilon,
        )
    else:
        advantages = []
        for _, trajectories, scores in sampled:
            rewards = [s.value for s in scores]
            if g.kl > 0 and g.kl_in == "reward":
                penalties = [
                    g.kl * float(kl.sum()) for kl in kl_per_token(trajectories, references, g.kl_estimator)
                ]
                rewards = [None if r is None else r - p for r, p in zip(rewards, penalties, strict=True)]
            advantages.append(_within(rewards, settings))
    if settings.flat == "steps":
        advantages = [
            a if any(a) else _by_steps(scores, settings)
            for a, (_, _, scores) in zip(advantages, sampled, strict=True)
        ]
    elif g.solved is not None:
        advantages = [
            a if any(a) else by_sign([s.value for s in scores], g.solved)
            for a, (_, _, scores) in zip(advantages, sampled, strict=True)
        ]
    if settings.judge.shrink:
        advantages = [shrunk(a, scores) for a, (_, _, scores) in zip(advantages, sampled, strict=True)]
    if settings.flat == "drop":
        advantages = [a if any(a) else (None,) * len(a) for a in advantages]
    return [
        Group(step=step, prompt=p, trajectories=tuple(t), scores=tuple(s), advantages=a)
        for (p, t, s), a in zip(sampled, advantages, strict=True)
    ]


def _within(rewards_G: Sequence[float | None], settings: Settings) -> tuple[float | None, ...]:
    """The advantages that a group's own rewards decide."""
    g = settings.grpo
    if g.advantage == "zscore":
        return zscore(rewards_G, deviation=g.deviation, epsilon=g.epsilon)
    return (mean_only if g.advantage == "mean" else leave_one_out)(rewards_G)


def _by_steps(scores_G: Sequence[Score], settings: Settings) -> tuple[float | None, ...]:
    """The advantages of a group of equal rewards: by the steps of its answers, where they were graded."""
    table, solved = settings.reward.steps, settings.grpo.solved
    rewards = [s.value for s in scores_G]
    shares = [s.breakdown.get(RIGHT_STEPS) for s in scores_G]
    graded = [r for r, share in zip(rewards, shares, strict=True) if share is not None]
    if not graded or table is None or solved is None:
        return _within(rewards, settings)
    right = _within([solved, *graded[1:]], settings)[0]
    return by_steps(shares, right=right or 0.0, weight=table.weight)


def shrunk(advantages: Sequence[float | None], scores: Sequence[Score]) -> tuple[float | None, ...]:
    """A group's advantages times the agreement of its judges; 0 where they contradict each other.

    >>> shrunk((1.0, None), (Score(value=1.0, agreement=0.5), Score.missing("no reply")))
    (0.5, None)
    """
    agreed = next((s.agreement for s in scores if s.agreement is not None), 1.0)
    return tuple(None if a is None else a * max(0.0, agreed) for a in advantages)


def group_statistics(groups: Sequence[Group]) -> dict[str, object]:
    """The part of StepMetrics that rewards and lengths alone decide."""
    scores = [s for g in groups for s in g.scores]
    rewards = [s.value for s in scores if s.value is not None]
    by_group = [[s.value for s in g.scores if s.value is not None] for g in groups]
    tokens = [t.completion_tokens for g in groups for t in g.trajectories]
    reasons = [t.stop_reason for g in groups for t in g.trajectories]
    logprobs = [x for g in groups for t in g.trajectories for x in sampled_logprobs(t)]
    shares = [{s.breakdown[RIGHT_STEPS] for s in g.scores if RIGHT_STEPS in s.breakdown} for g in groups]
    names = dict.fromkeys(name for s in scores for name in s.breakdown)
    answers = variety([(g.prompt.id, [t.completion for t in g.trajectories]) for g in groups])
    components = {
        name: _mean([s.breakdown[name] for s in scores if s.value is not None and name in s.breakdown])
        for name in names
    }
    return {
        "reward_mean": _mean(rewards),
        "reward_std": _mean([_deviation(r) for r in by_group if r]),
        "components": {name: mean for name, mean in components.items() if mean is not None},
        "groups": len(groups),
        "groups_zero_variance": sum(1 for r in by_group if r and same_value(r)),
        "groups_by_steps": sum(1 for found in shares if found and not same_value(found)),
        "groups_missing": sum(1 for g in groups if any(s.status == "missing" for s in g.scores)),
        "members_missing": sum(1 for s in scores if s.status == "missing"),
        "tokens_mean": math.fsum(tokens) / len(tokens),
        "clipped_share": reasons.count("length") / len(reasons),
        "distinct_share": answers.distinct_share,
        "openings": answers.openings,
        "entropy": None if not logprobs else -math.fsum(logprobs) / len(logprobs),
    }


def _mean(values: Sequence[float]) -> float | None:
    return mean_of(values) if values else None


def _deviation(values: Sequence[float]) -> float:
    mean = mean_of(values)
    return root_mean_square([v - mean for v in values], len(values))
