"""What a step's groups say of themselves: the part of StepMetrics that rewards and lengths alone decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from refine_rl.evaluate.content import content
from refine_rl.evaluate.variety import variety
from refine_rl.training.grpo.advantages import root_mean_square
from refine_rl.training.grpo.teacher import apart
from refine_rl.training.rows import sampled_logprobs
from refine_rl.types import RIGHT_STEPS, End, Group, Trajectory, mean_of, same_value


def group_statistics(groups: Sequence[Group]) -> dict[str, object]:
    """The part of StepMetrics that rewards and lengths alone decide."""
    scores = [s for g in groups for s in g.scores]
    rewards = [s.value for s in scores if s.value is not None]
    by_group = [[s.value for s in g.scores if s.value is not None] for g in groups]
    reasons = [t.stop_reason for g in groups for t in g.trajectories]
    logprobs = [x for g in groups for t in g.trajectories for x in sampled_logprobs(t)]
    shares = [{s.breakdown[RIGHT_STEPS] for s in g.scores if RIGHT_STEPS in s.breakdown} for g in groups]
    names = dict.fromkeys(name for s in scores for name in s.breakdown)
    answers = variety([(g.prompt.id, [t.said for t in g.trajectories]) for g in groups])
    taught = [
        x for g in groups for t, its in zip(g.trajectories, g.each_taught, strict=True) for x in apart(t, its)
    ]
    said = content([(g.prompt, [*zip(g.trajectories, g.scores, strict=True)]) for g in groups])
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
        "tokens_mean": said.tokens,
        "clipped_share": reasons.count("length") / len(reasons),
        "distinct_share": answers.distinct_share,
        "openings": answers.openings,
        "kept_share": said.kept,
        "by_length": said.by_length,
        "teacher_kl": math.fsum(taught) / len(taught) if taught else None,
        **ends_of([t for g in groups for t in g.trajectories]),
        "entropy": None if not logprobs else -math.fsum(logprobs) / len(logprobs),
    }


def ends_of(trajectories: Sequence[Trajectory]) -> dict[str, object]:
    """How the trajectories that an environment played ended; nothing where there is none."""
    played = [(t.played, sum(s.sampled for s in t.segments)) for t in trajectories if t.played is not None]
    if not played:
        return {}
    ends = [p.end for p, _ in played]
    return {
        "turns_mean": math.fsum(turns for _, turns in played) / len(played),
        "ends": {end: ends.count(end) / len(ends) for end in get_args(End)},
    }


def _mean(values: Sequence[float]) -> float | None:
    return mean_of(values) if values else None


def _deviation(values: Sequence[float]) -> float:
    mean = mean_of(values)
    return root_mean_square([v - mean for v in values], len(values))
