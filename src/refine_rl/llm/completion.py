"""A chat completion as endpoints write it: the request's body, and the reply that is in an answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from refine_rl.llm.client import Reply, Request
from refine_rl.llm.failures import Failure, error_text, failure_in_body, read_json, what_came

_CUT = {"length", "max_tokens", "max_output_tokens", "max_length", "model_length"}  # as endpoints name it
_FILTERED = {"content_filter", "content_filtered", "safety", "refusal"}
_TEXTS = ("text", "output_text")  # kinds of parts that are the answer
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details", "thinking")
_USUAL = {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "provider"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quirks:
    """What a model does not take as others do."""

    temperature: bool = True
    max_tokens: str = "max_tokens"


def body_of(model: str, request: Request, quirks: Quirks) -> dict[str, Any]:
    """The arguments of the call."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": m["role"], "content": m["content"].encode("utf-8", "replace").decode("utf-8")}
            for m in request.messages
        ],
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


def read_completion(body: str, request: Request) -> tuple[Reply, Failure | None]:
    """The reply in an answer of status 200 to `request`; where it is none, what was used, and the failure."""
    data = read_json(body)
    if not isinstance(data, dict) or not ("choices" in data or "error" in data):
        failure = _retry("server error", f"no completion came back but {what_came(body)}", lost=True)
        return Reply(text=""), failure
    used = _used(data.get("usage"))
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    error = data.get("error") or (first.get("error") if isinstance(first, dict) else None)
    if error:
        return used, failure_in_body(error, request.form)
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        rest = {name: value for name, value in data.items() if value and name not in _USUAL}
        said = error_text(json.dumps(rest)) if rest else ""
        return used, _retry("empty", f"the answer held no choice{said and f': {said}'}")
    reason = str(first.get("finish_reason")).casefold()
    if reason == "error":
        return used, _retry("server error", "the model broke off")
    text = _text(message.get("content"))
    refusal = _refusal(message)
    if refusal or reason in _FILTERED:
        instead = "" if refusal or text.strip() else "a filter of the endpoint held it back"
        return replace(used, text=refusal or text, finish="refusal", instead=instead), None
    cut = reason in _CUT
    instead = "" if text.strip() else _instead(data, first, message, request.max_tokens if cut else None)
    return replace(used, text=text, finish="length" if cut else "stop", instead=instead), None


def _instead(
    data: Mapping[str, Any], choice: Mapping[str, Any], message: Mapping[str, Any], limit: int | None
) -> str:
    """What came in the place of a text; `limit` is the max_tokens by which the answer was cut."""
    calls = message.get("tool_calls") or [message.get("function_call")]
    names = [_tool(call) for call in calls if call] if isinstance(calls, list) else []
    if names:
        return f"the model called a tool ({', '.join(names)}), though none was offered"
    details = data["usage"].get("completion_tokens_details") if isinstance(data.get("usage"), dict) else None
    thought = details.get("reasoning_tokens") if isinstance(details, dict) else None
    thinks = bool(thought) or any(message.get(name) for name in _THOUGHTS) or _thinks(message.get("content"))
    size = f" of {thought} tokens" if isinstance(thought, int) and thought else ""
    if limit is not None:
        cause = f"a thought{size} took all of it" if thinks else "no word came before that"
        return f"it was cut by max_tokens ({limit}), and {cause}; allow more"
    if thinks:
        return f"a thought{size} came, and no answer behind it"
    content = "null" if message.get("content") is None else "empty"
    return f"its content is {content} (finish_reason {json.dumps(choice.get('finish_reason'))})"


def _tool(call: Any) -> str:
    inner = call.get("function", call) if isinstance(call, dict) else {}
    name = inner.get("name") if isinstance(inner, dict) else None
    return f"`{name[:60]}`" if isinstance(name, str) and name else "without a name"


def _refusal(message: Mapping[str, Any]) -> str:
    """The words with which the model declined."""
    if isinstance(message.get("refusal"), str):
        return str(message["refusal"])
    parts = message.get("content")
    parts = parts if isinstance(parts, list) and not _text(parts).strip() else []
    words = [part.get("refusal") for part in parts if isinstance(part, dict)]
    return " ".join(word for word in words if isinstance(word, str))


def _thinks(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(p, dict) and p.get("type") in ("thinking", "reasoning") for p in parts)


def _retry(outcome: str, text: str, *, lost: bool = False) -> Failure:
    return Failure(kind="retry", outcome=outcome, text=text, lost=lost)


def _used(usage: Any) -> Reply:
    """A reply without a text yet, with the tokens and the cost that an answer tells."""
    if not isinstance(usage, dict):
        return Reply(text="")

    def number(name: str) -> int | None:
        value = usage.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    cost: Any = usage.get("cost")
    known = isinstance(cost, int | float) and not isinstance(cost, bool) and math.isfinite(cost) and cost >= 0
    return Reply(
        text="",
        tokens_in=number("prompt_tokens"),
        tokens_out=number("completion_tokens"),
        cost_usd=float(cost) if known else None,
    )


def _text(content: Any) -> str:
    """A message's content, which may come in parts; those of a thought are none of it."""
    if isinstance(content, list):
        shown = [p for p in content if not isinstance(p, dict) or p.get("type", "text") in _TEXTS]
        parts = [part.get("text") if isinstance(part, dict) else part for part in shown]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
