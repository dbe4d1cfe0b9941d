"""What a line of a run's files must have, so that one that was cut or edited is named and not used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from refine_rl.llm.client import Call
from refine_rl.types import Prompt, StepMetrics

_ATTEMPT = frozenset(
    {"member", "messages", "tokens", "logprobs", "spans", "stop_reason", "reward", "status", "breakdown"}
)
_OUTCOME = {"prompt_id": str, "prompt_tokens": list, "sampled": list, "greedy": dict}
_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "prompts.jsonl": {"id": str, "split": str, "messages": list},
    "metrics.jsonl": {"step": int, "seconds": dict, "components": dict},
    "groups.jsonl": {
        "step": int,
        "groups_in_step": int,
        "prompt_id": str,
        "prompt_tokens": list,
        "trajectories": list,
    },
    "validation.jsonl": {"step": int, "reward": dict},
    "pool.jsonl": {"step": int, "prompt_id": str, "state": str},
    "events.jsonl": {"time": str, "kind": str, "name": str, "text": str},
    "times.jsonl": {"stage": str, "seconds": (int, float)},
    "llm_calls.jsonl": {"purpose": str, "endpoint": str, "model": str, "outcome": str},
    "llm_replies.jsonl": {"id": int, "purpose": str, "messages": list},
    "quiz.jsonl": {"key": str, "made": dict},
}
_RECORDS = {"prompts.jsonl": Prompt, "metrics.jsonl": StepMetrics, "llm_calls.jsonl": Call}


def flaw(file: str, record: object) -> str | None:
    """What keeps `record` from being a line of the file, in a few words; None where nothing does.

    >>> flaw("metrics.jsonl", {"step": "3", "seconds": {}, "components": {}})
    '`step` is "3"'
    >>> flaw("pool.jsonl", {"step": 3, "state": "aside"})
    '`prompt_id` is missing'
    """
    if not isinstance(record, Mapping):
        return "it is no JSON object"
    for key, kind in (_OUTCOME if file.startswith("evaluations/") else _KEYS.get(file, {})).items():
        if key not in record:
            return f"`{key}` is missing"
        if not isinstance(record[key], kind) or isinstance(record[key], bool):
            return f"`{key}` is {_short(record[key])}"
    if file in _RECORDS and (found := _other_keys(record, _RECORDS[file])):
        return found
    if file == "metrics.jsonl":
        return _numbers_flaw(record)
    return _messages_flaw(record) if file == "prompts.jsonl" else _attempts_flaw(record)


def _other_keys(record: Mapping[str, Any], kind: type[Any]) -> str | None:
    fields = dataclasses.fields(kind)
    for field in fields:
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if field.name not in record and not optional:
            return f"`{field.name}` is missing"
    unknown = record.keys() - {field.name for field in fields}
    return f"`{min(unknown)}` is no key of it" if unknown else None


def _numbers_flaw(record: Mapping[str, Any]) -> str | None:
    """Of a step's metrics, which are numbers, unknown ones, and tables of numbers."""
    for key, value in record.items():
        for number in value.values() if isinstance(value, Mapping) else [value]:
            if not (number is None or isinstance(number, int | float)):
                return f"`{key}` is {_short(value)}"
    return None


def _messages_flaw(record: Mapping[str, Any]) -> str | None:
    for message in record["messages"]:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            return f"a message in it is {_short(message)}"
    return None if record["messages"] else "it has no messages"


def _attempts_flaw(record: Mapping[str, Any]) -> str | None:
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


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
