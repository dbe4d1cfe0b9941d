"""What a request wants, in the form of OpenAI's chat completions; what cannot be done is refused, not passed
over in silence.

The fields are those of the API reference (platform.openai.com/docs/api-reference/chat/create, November 2026),
and `top_k`, which other servers take as well.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.types import Message

MOST_ANSWERS = 128
"""Answers to one request."""
_MOST_STOPS = 16
_PASSED_OVER = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
    }
)
"""Fields that say nothing of the answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "top_logprobs": (0,),
    "modalities": (["text"],),
}
"""Fields of which only these values change nothing, and are taken."""
_READ = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed"}
    | {"stop", "n", "stream", "stream_options", "logprobs"}
)
_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}


class Refused(Exception):  # noqa: N818 - an answer with an error's status
    """A request that is not answered; `param` is the field at fault."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI's servers say it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What the two models are called in a request, and what is done about requests that leave something out:
    `system` goes before messages without a system message, `max_tokens` is the limit where none is said.
    `tools`: messages of the role "tool" are read."""

    tuned: tuple[str, ...] = ("tuned",)
    base: tuple[str, ...] = ("base",)
    system: str = ""
    max_tokens: int = 256
    tools: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.tuned, *self.base)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request that can be answered."""

    model: str
    base: bool
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    n: int
    stream: bool
    usage: bool
    logprobs: bool


def read_asked(body: object, names: Names) -> Asked:
    """The request in a JSON body. Raises Refused, which names the field.

    >>> asked = read_asked({"model": "tuned", "messages": [{"role": "user", "content": "Hi"}], "seed": 1},
    ...                    Names(system="Be brief."))
    >>> asked.messages[0]["content"], asked.temperature, asked.max_tokens, asked.base
    ('Be brief.', 1.0, 256, False)
    """
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object.")
    fields = {name: value for name, value in body.items() if value is not None}
    _require_known(fields)
    model = fields.get("model")
    if model not in names.all:
        known = ", ".join(names.all)
        text = (
            f"There is no model {model!r} here; there are: {known}."
            if model
            else f"`model` is one of: {known}."
        )
        raise Refused(404 if model else 400, text, param="model", code="model_not_found")
    options = fields.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise Refused(400, "`stream_options` takes include_usage alone.", param="stream_options")
    limit = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    seed = _whole(fields, "seed", secrets.randbits(31), least=-(2**63))
    return Asked(
        model=model,
        base=model in names.base,
        messages=_messages(fields.get("messages"), names),
        max_tokens=_whole(fields, limit, names.max_tokens, least=1),
        temperature=_number(fields, "temperature", 1.0, 0.0, 1e6),
        top_p=_number(fields, "top_p", 1.0, 1e-6, 1.0),
        top_k=max(0, _whole(fields, "top_k", 0, least=-1)),  # -1 and 0: all
        seed=seed,
        stop=_stops(fields.get("stop", [])),
        n=_whole(fields, "n", 1, least=1, most=MOST_ANSWERS),
        stream=_flag(fields, "stream"),
        usage=bool(options.get("include_usage")),
        logprobs=_flag(fields, "logprobs"),
    )


def _require_known(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in _READ or name in _PASSED_OVER:
            continue
        if name not in _NEUTRAL:
            raise Refused(400, f"`{name}` is not known to this server.", param=name, code="unknown_parameter")
        if value not in _NEUTRAL[name]:
            raise Refused(
                400,
                f"`{name}` = {value!r:.80} is not supported by this server: leave it out.",
                param=name,
                code="unsupported_parameter",
            )


def _messages(given: object, names: Names) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise Refused(400, "`messages` must be a list of at least one message.", param="messages")
    messages = tuple(_message(m, f"messages[{n}]", names.tools) for n, m in enumerate(given))
    if names.system and not any(m["role"] == "system" for m in messages):
        messages = (Message(role="system", content=names.system), *messages)
    return messages


def _message(given: object, where: str, tools: bool) -> Message:
    if not isinstance(given, dict):
        raise Refused(400, f"`{where}` must be an object with role and content.", param=where)
    roles = {**_ROLES, "tool": "tool"} if tools else _ROLES
    role = given.get("role")
    if role not in roles:
        said = ", ".join(roles)
        raise Refused(400, f"`{where}.role` = {role!r:.40}: it is one of {said}.", param=f"{where}.role")
    if given.get("tool_calls") or given.get("function_call"):
        raise Refused(
            400,
            f"`{where}.tool_calls`: calls of tools are text here, in `content`.",
            param=f"{where}.tool_calls",
        )
    return Message(role=roles[role], content=_content(given.get("content"), f"{where}.content"))


def _content(given: object, where: str) -> str:
    """A text, or the texts of its parts one after the other."""
    if isinstance(given, list):
        parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in given]
        if all(isinstance(p, str) for p in parts):
            given = "".join(map(str, parts))
    if not isinstance(given, str):
        raise Refused(400, f"`{where}` must be text, or a list of parts of the type text.", param=where)
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise Refused(400, f"`{where}` cannot be written in UTF-8: {error.reason}.", param=where) from None
    return given


def _stops(given: object) -> tuple[str, ...]:
    texts: Sequence[object] = given if isinstance(given, list) else [given]
    if len(texts) > _MOST_STOPS or not all(isinstance(t, str) and t for t in texts):
        raise Refused(
            400, f"`stop` must be a text, or up to {_MOST_STOPS} of them; none empty.", param="stop"
        )
    return tuple(map(str, texts))


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise Refused(400, f"`{name}` must be true or false.", param=name)
    return value


def _whole(fields: Mapping[str, Any], name: str, default: int, *, least: int, most: int = 2**63 - 1) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        upper = f", at most {most}" if most < 2**63 - 1 else ""
        raise Refused(400, f"`{name}` must be a whole number of at least {least}{upper}.", param=name)
    return value


def _number(fields: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = fields.get(name, default)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not least <= value <= most:
        raise Refused(400, f"`{name}` must be a number from {least:g} to {most:g}.", param=name)
    return float(value)
