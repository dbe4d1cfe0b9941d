"""A chat completion as endpoints write it: the request's body, and the reply that is in an answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from refine_rl.llm.client import Request
from refine_rl.llm.failures import Failure, error_text, failure_of_status


@dataclass(frozen=True, kw_only=True, slots=True)
class Quirks:
    """What a model does not take as others do."""

    temperature: bool = True
    max_tokens: str = "max_tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an answer holds. `problem` is set where that is no reply; what was used is told all the same."""

    text: str = ""
    finish: Literal["stop", "length", "refusal"] = "stop"
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    problem: Failure | None = None


def body_of(model: str, request: Request, quirks: Quirks) -> dict[str, Any]:
    """The arguments of the call."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m["role"], "content": _encodable(m["content"])} for m in request.messages],
        quirks.max_tokens: request.max_tokens,
    }
    if quirks.temperature:
        body["temperature"] = request.temperature
    if request.schema is not None and request.form == "schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": re.sub(r"[^A-Za-z0-9_-]", "_", request.schema.name)[:64],
                "strict": True,
                "schema": strict_schema(request.schema.schema),
            },
        }
    elif request.schema is not None and request.form == "json":
        body["response_format"] = {"type": "json_object"}
    return body


def strict_schema(schema: Any) -> Any:
    """The schema as strict endpoints want it: every object closed, all its properties required.

    >>> strict_schema({"type": "object", "properties": {"a": {"type": "string"}}})["required"]
    ['a']
    """
    if isinstance(schema, list):
        return [strict_schema(entry) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {name: strict_schema(entry) for name, entry in schema.items()}
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, Mapping):
        closed.setdefault("additionalProperties", False)
        closed["required"] = list(properties)
    return closed


def read_completion(body: str) -> Completion:
    """What is in an answer of status 200."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict) or not ("choices" in data or "error" in data):
        said = error_text(body)[:120] or "nothing"
        return Completion(problem=_retry("server error", f"no completion came back but: {said}", lost=True))
    used = _usage(data.get("usage"))
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    error = data.get("error") or (first.get("error") if isinstance(first, dict) else None)
    if error:
        return Completion(**used, problem=_inner(error))
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        return Completion(**used, problem=_retry("empty", "the answer held no choice"))
    reason = first.get("finish_reason")
    if reason == "error":
        return Completion(**used, problem=_retry("server error", "the model broke off"))
    text = _text(message.get("content"))
    refusal = message.get("refusal")
    if refusal or reason == "content_filter":
        return Completion(text=refusal if isinstance(refusal, str) else text, finish="refusal", **used)
    return Completion(text=text, finish="length" if reason in ("length", "max_tokens") else "stop", **used)


def _retry(outcome: str, text: str, *, lost: bool = False) -> Failure:
    return Failure(kind="retry", outcome=outcome, text=text, lost=lost)


def _inner(error: Any) -> Failure:
    """An error in an answer of status 200; routers pass the failures of others on like this."""
    body = json.dumps({"error": error})
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return failure_of_status(code, {}, body, "text")
    return _retry("server error", error_text(body))


def _usage(usage: Any) -> dict[str, Any]:
    if not isinstance(usage, dict):
        return {}

    def number(name: str) -> int | None:
        value = usage.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    cost: Any = usage.get("cost")
    known = isinstance(cost, int | float) and not isinstance(cost, bool) and math.isfinite(cost) and cost >= 0
    return {
        "tokens_in": number("prompt_tokens"),
        "tokens_out": number("completion_tokens"),
        "cost_usd": float(cost) if known else None,
    }


def _text(content: Any) -> str:
    """A message's content, which may come in parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
