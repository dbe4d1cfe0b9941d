"""The records of types.py as JSON, and back: what stands on a line of a run's files.

Tokens, log-probs and scores come back exactly as they went in.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from refine_rl.types import (
    Beside,
    Comparison,
    Content,
    Contrast,
    Dialogue,
    Estimate,
    Example,
    Forgetting,
    Group,
    Metric,
    Other,
    Outcome,
    Part,
    Played,
    Prompt,
    Score,
    Segment,
    Ship,
    Taught,
    Took,
    Trajectory,
    Variety,
)


def trajectory_record(t: Trajectory, score: Score) -> dict[str, Any]:
    after_prompt = t.segments[1:]
    return {
        "member": t.member,
        "messages": list(t.messages),
        "tokens": [i for s in after_prompt for i in s.token_ids],
        "logprobs": [x for s in after_prompt for x in s.logprobs],
        "spans": [[len(s.token_ids), s.trainable] for s in after_prompt],
        "stop_reason": t.stop_reason,
        "reward": score.value,
        "status": score.status,
        "breakdown": dict(score.breakdown),
        "explanation": score.explanation,
        "agreement": score.agreement,
        **({} if t.played is None else {"world": _world_record(t.played)}),
    }


def _world_record(played: Played) -> dict[str, Any]:
    return {"rewards": list(played.rewards), "end": played.end, "why": played.why}


def _played_from(record: Mapping[str, Any]) -> Played:
    return Played(rewards=tuple(record["rewards"]), end=record["end"], why=record["why"])


def trajectory_from(
    record: Mapping[str, Any], prompt_id: str, prompt_tokens: Sequence[int]
) -> tuple[Trajectory, Score]:
    segments = [Segment(token_ids=tuple(prompt_tokens), trainable=False)]
    tokens, logprobs = iter(record["tokens"]), iter(record["logprobs"])
    for length, trainable in record["spans"]:
        ids = tuple(next(tokens) for _ in range(length))
        sampled = tuple(next(logprobs) for _ in range(length)) if trainable else ()
        segments.append(Segment(token_ids=ids, trainable=trainable, logprobs=sampled))
    trajectory = Trajectory(
        prompt_id=prompt_id,
        member=record["member"],
        messages=tuple(record["messages"]),
        segments=tuple(segments),
        stop_reason=record["stop_reason"],
        played=_played_from(record["world"]) if "world" in record else None,
    )
    score = Score(
        value=record["reward"],
        status=record["status"],
        breakdown=record["breakdown"],
        explanation=record["explanation"],
        agreement=record.get("agreement"),
    )
    return trajectory, score


def group_record(group: Group) -> dict[str, Any]:
    return {
        "step": group.step,
        "prompt_id": group.prompt.id,
        "prompt_tokens": list(group.trajectories[0].segments[0].token_ids),
        "trajectories": [
            trajectory_record(t, s) | {"advantage": a} | _taught_record(its)
            for t, s, a, its in zip(
                group.trajectories, group.scores, group.advantages, group.each_taught, strict=True
            )
        ],
    }


def group_from(record: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> Group:
    pairs = [trajectory_from(t, record["prompt_id"], record["prompt_tokens"]) for t in record["trajectories"]]
    taught = any("teacher" in t for t in record["trajectories"])
    return Group(
        step=record["step"],
        prompt=prompts[record["prompt_id"]],
        trajectories=tuple(t for t, _ in pairs),
        scores=tuple(s for _, s in pairs),
        advantages=tuple(t["advantage"] for t in record["trajectories"]),
        taught=tuple(map(_taught_from, record["trajectories"])) if taught else (),
    )


def _taught_record(taught: Taught | None) -> dict[str, Any]:
    if taught is None:
        return {}
    return {"teacher": [*taught.logprobs], **({"shown": taught.shown} if taught.shown else {})}


def _taught_from(record: Mapping[str, Any]) -> Taught | None:
    if "teacher" not in record:
        return None
    return Taught(logprobs=tuple(record["teacher"]), shown=record.get("shown", ""))


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    return {
        "prompt_id": outcome.prompt.id,
        "prompt_tokens": list(outcome.greedy[0].segments[0].token_ids),
        "sampled": [trajectory_record(t, s) for t, s in outcome.sampled],
        "greedy": trajectory_record(*outcome.greedy),
    }


def outcome_from(record: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> Outcome:
    def pair(r: Mapping[str, Any]) -> tuple[Trajectory, Score]:
        return trajectory_from(r, record["prompt_id"], record["prompt_tokens"])

    return Outcome(
        prompt=prompts[record["prompt_id"]],
        sampled=tuple(pair(r) for r in record["sampled"]),
        greedy=pair(record["greedy"]),
    )


def _estimate(record: Mapping[str, Any]) -> Estimate:
    return Estimate(mean=record["mean"], ci95=(record["ci95"][0], record["ci95"][1]))


_SIDES = ("base", "tuned", "difference")


def _part(record: Mapping[str, Any]) -> Part:
    return Part(**{**record, **{side: _estimate(record[side]) for side in _SIDES}})


def _contrast(record: Mapping[str, Any]) -> Contrast:
    return Contrast(**{side: _estimate(record[side]) for side in _SIDES})


def _contrasts(records: Mapping[str, Any]) -> dict[str, Contrast]:
    return {name: _contrast(record) for name, record in records.items()}


def _other(record: Mapping[str, Any]) -> Other:
    over = record.get("over_base")
    read = {
        "ci95": _estimate(record).ci95,
        "tuned_minus": _estimate(record["tuned_minus"]),
        "details": _contrasts(record["details"]),
        "over_base": None if over is None else _estimate(over),
    }
    return Other(**{**record, **read})


def _beside(record: Mapping[str, Any]) -> Beside:
    own = _estimate(record)
    return Beside(mean=own.mean, ci95=own.ci95, tuned_minus=_estimate(record["tuned_minus"]))


def _besides(records: Mapping[str, Any]) -> dict[str, Beside]:
    return {name: _beside(record) for name, record in records.items()}


def _took(record: Mapping[str, Any] | None) -> Took | None:
    return None if record is None else Took(**record)


def _ship(record: Mapping[str, Any] | None) -> Ship | None:
    return (
        None
        if record is None
        else Ship(name=record["name"], as_well=tuple(record["as_well"]), unsure=tuple(record["unsure"]))
    )


def _forgetting(record: Mapping[str, Any] | None) -> Forgetting | None:
    if record is None:
        return None
    contrasts = {name: _contrast(record[name]) for name in ("perplexity", "ended", "tokens")}
    return Forgetting(**{**record, **contrasts, **{n: _estimate(record[n]) for n in ("kl", "same")}})


def _metric(record: Mapping[str, Any]) -> Metric:
    read = {side: _estimate(record[side]) for side in _SIDES}
    return Metric(**{**record, **read, "others": _besides(record["others"])})


def _example(record: Mapping[str, Any]) -> Example:
    dialogues = {
        side: Dialogue(messages=tuple(d["messages"]), played=_played_from(d["played"]))
        for side, d in record.get("dialogues", {}).items()
    }
    return Example(**{**record, "dialogues": dialogues})


def comparison_text(comparison: Comparison) -> str:
    return json.dumps(dataclasses.asdict(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def comparison_from(record: Mapping[str, Any]) -> Comparison:
    """A comparison as `comparison_text` wrote it; fields that an older version did not write are empty."""
    estimates = {side: None if record[side] is None else _estimate(record[side]) for side in _SIDES}
    read: dict[str, Any] = {
        "examples": tuple(_example(e) for e in record["examples"]),
        "details": _contrasts(record["details"]),
        "facets": {
            facet: {value: _part(part) for value, part in values.items()}
            for facet, values in record.get("facets", {}).items()
        },
        "combinations": {name: _part(part) for name, part in record.get("combinations", {}).items()},
        "variety": {side: Variety(**v) for side, v in record.get("variety", {}).items()},
        "content": {side: Content(**c) for side, c in record.get("content", {}).items()},
        "others": {name: _other(other) for name, other in record.get("others", {}).items()},
        "took": _took(record.get("took")),
        "ship": _ship(record.get("ship")),
        "metrics": {name: _metric(metric) for name, metric in record.get("metrics", {}).items()},
        "forgetting": _forgetting(record.get("forgetting")),
        "curves": {name: tuple(map(_contrast, each)) for name, each in record.get("curves", {}).items()},
        "controls": {name: _besides(found) for name, found in record.get("controls", {}).items()},
    }
    return Comparison(**{**record, **estimates, **read})
