"""How a record stands on a line of a run's files, and what the line must have, so that one that was cut or
edited is named and not used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from refine_rl.llm.client import Call
from refine_rl.llm.kept import exchange_record
from refine_rl.run.files import Record
from refine_rl.types import Metrics, Prompt, SFTMetrics, StepMetrics

R = TypeVar("R")
Keys = Mapping[str, type | tuple[type, ...]]
_OF_SOME = frozenset(
    {
        *("turns_mean", "ends", "updates", "moved_kl", "replayed", "teacher_kl"),
        *("groups_sampled", "groups_alike", "facets_sampled", "facets_scored"),
    }
)
_POOL_KEYS: Mapping[str, Keys] = {
    "drawn": {"promised": dict, "pool": dict},
    "sampled": {"diversity": dict, "scored": list},
}
_ATTEMPT = frozenset(
    {"member", "messages", "tokens", "logprobs", "spans", "stop_reason", "reward", "status", "breakdown"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape(Generic[R]):
    """What the lines of a file are: what each must have (`keys`; `flaws` finds what else is wrong with one),
    and both ways between records and lines."""

    keys: Keys
    flaws: Callable[[Record], str | None]
    to_line: Callable[[R], Record]
    from_line: Callable[[Record], R]

    def flaw(self, record: Record) -> str | None:
        """What keeps `record` from being a line, in a few words; None where nothing does.

        >>> METRICS.flaw({"step": "3", "seconds": {}, "components": {}})
        '`step` is "3"'
        >>> POOL.flaw({"step": 3, "state": "aside"})
        '`prompt_id` is missing'
        >>> POOL.flaw({"step": 3, "state": "drawn", "promised": {"p0": "much"}, "pool": {"new": 4}})
        '`promised` is {"p0": "much"}'
        """
        for key, kind in self.keys.items():
            if key not in record:
                return f"`{key}` is missing"
            if not isinstance(record[key], kind) or isinstance(record[key], bool):
                return f"`{key}` is {_short(record[key])}"
        return self.flaws(record)


def plain(keys: Keys, flaws: Callable[[Record], str | None] = lambda record: None) -> Shape[Record]:
    """Lines that are the records themselves."""
    return Shape(keys=keys, flaws=flaws, to_line=lambda record: record, from_line=lambda record: record)


def _fields_flaw(record: object, kind: type[Any]) -> str | None:
    if not isinstance(record, dict):
        return "a record in it is no JSON object"
    fields = dataclasses.fields(kind)
    for field in fields:
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if field.name not in record and not optional:
            return f"`{field.name}` is missing"
    unknown = record.keys() - {field.name for field in fields}
    return f"`{min(unknown)}` is no key of it" if unknown else None


def _numbers_flaw(record: Record) -> str | None:
    """Of a step's metrics, which are numbers, unknown ones, and tables of numbers."""
    for key, value in record.items():
        for number in value.values() if isinstance(value, Mapping) else [value]:
            if not (number is None or isinstance(number, int | float)):
                return f"`{key}` is {_short(value)}"
    return None


def _kind_of(record: Record) -> type[StepMetrics | SFTMetrics]:
    """Which training's step it is."""
    return SFTMetrics if "targets" in record else StepMetrics


def _metrics_flaw(record: Record) -> str | None:
    kind = _kind_of(record)
    if kind is StepMetrics and not isinstance(record.get("components", {}), dict):
        return f"`components` is {_short(record['components'])}"
    return _fields_flaw(record, kind)


def _metrics_line(metrics: Metrics) -> Record:
    """Without what only some runs have: a world of several turns, several updates, a choice of groups."""
    line = dataclasses.asdict(metrics)
    return {k: v for k, v in line.items() if k not in _OF_SOME or (v is not None and v != {})}


def _look_flaw(record: Record) -> str | None:
    """Of a look at the validation prompts, which has a reward, or at rows that have a loss."""
    if isinstance(record.get("loss"), float) or isinstance(record.get("reward"), dict):
        return None
    return "it has neither a `reward` nor a `loss`"


def _messages_flaw(record: Record) -> str | None:
    for message in record["messages"]:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            return f"a message in it is {_short(message)}"
    return None if record["messages"] else "it has no messages"


def _attempts_flaw(record: Record) -> str | None:
    """Of the answers that a group or an outcome holds."""
    attempts = [*record.get("trajectories", ()), *record.get("sampled", ())]
    if "greedy" in record:
        attempts.append(record["greedy"])
    for attempt in attempts:
        if not isinstance(attempt, Mapping):
            return "an answer in it is no JSON object"
        if missing := _ATTEMPT - attempt.keys():
            return f"`{min(missing)}` of an answer is missing"
        if (found := _tokens_flaw(attempt)) is not None:
            return found
    return None


def _tokens_flaw(attempt: Mapping[str, Any]) -> str | None:
    try:
        tokens = sum(length for length, _ in attempt["spans"])
        sampled = sum(length for length, trainable in attempt["spans"] if trainable)
        whole = (tokens, sampled) == (len(attempt["tokens"]), len(attempt["logprobs"]))
    except (TypeError, ValueError):
        whole = False
    return None if whole else "the tokens, log-probs and spans of an answer do not fit together"


def _pool_flaw(record: Record) -> str | None:
    """Of a prompt that was set aside or came back, of what a curriculum drew, or of groups that were sampled
    to choose from."""
    keys = _POOL_KEYS.get(record["state"], {"prompt_id": str})
    for key, kind in keys.items():
        if key not in record:
            return f"`{key}` is missing"
        if not isinstance(record[key], kind):
            return f"`{key}` is {_short(record[key])}"
    if "scored" in keys and not record["diversity"].keys() >= {*map(str, record["scored"])}:
        return f"`scored` is {_short(record['scored'])}"
    return _numbers_flaw({key: record[key] for key, kind in keys.items() if kind is dict})


def _vote_flaw(record: Record) -> str | None:
    for key, known in (("left", ("base", "tuned")), ("vote", ("left", "right", "tie", "undone"))):
        if record[key] not in known:
            return f"`{key}` is {_short(record[key])}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _prompt(record: Record) -> Prompt:
    return Prompt(**{**record, "messages": tuple(record["messages"])})


PROMPTS = Shape(
    keys={"id": str, "split": str, "messages": list},
    flaws=lambda record: _fields_flaw(record, Prompt) or _messages_flaw(record),
    to_line=dataclasses.asdict,
    from_line=_prompt,
)
METRICS: Shape[Metrics] = Shape(
    keys={"step": int, "seconds": dict},
    flaws=lambda record: _metrics_flaw(record) or _numbers_flaw(record),
    to_line=_metrics_line,
    from_line=lambda record: _kind_of(record)(**record),
)
GROUPS = plain(
    {"step": int, "groups_in_step": int, "prompt_id": str, "prompt_tokens": list, "trajectories": list},
    _attempts_flaw,
)
OUTCOMES = plain({"prompt_id": str, "prompt_tokens": list, "sampled": list, "greedy": dict}, _attempts_flaw)
LOSSES = plain({"prompt_id": str, "loss": (int, float, type(None)), "tokens": int})
VALIDATION = plain({"step": int}, _look_flaw)
EXAMPLES = plain({"name": str, "prompt": list, "answer": str, "before": str})
POOL = plain({"step": int, "state": str}, _pool_flaw)
EVENTS = plain({"time": str, "kind": str, "name": str, "text": str})
TIMES = plain({"stage": str, "seconds": (int, float)})
CALLS = Shape(
    keys={"purpose": str, "endpoint": str, "model": str, "outcome": str},
    flaws=lambda record: _fields_flaw(record, Call),
    to_line=dataclasses.asdict,
    from_line=lambda record: Call(**record),
)
EXCHANGES: Shape[Any] = Shape(
    keys={"id": int, "purpose": str, "messages": list},
    flaws=lambda record: None,
    to_line=exchange_record,
    from_line=lambda record: record,  # what a reader wants of the call is in it
)
QUIZ = plain({"key": str, "made": dict})
TRIED = plain({"key": str, "made": dict})
VOTES = plain(
    {"time": str, "reviewer": str, "prompt_id": str, "kind": str, "member": int, "mark": str, "left": str}
    | {"vote": str},
    _vote_flaw,
)
CALIBRATIONS = plain({"time": str, "judge": str, "rubric": str, "pairs": int, "alike": float, "ci95": list})
UNDER_WAY = plain(
    {"ticket": int}, lambda record: _fields_flaw(record["call"], Call) if "call" in record else None
)
