"""What an endpoint's answer means: a reply, or which kind of failure and what to do about it.

Endpoints agree on little but the status codes, so the words of their errors are read as well.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from refine_rl.llm.client import Form

Kind = Literal["retry", "refused", "unsupported", "too long", "failed", "no temperature", "new max_tokens"]

_SHOWN = 300  # characters of an error that are shown
_LOOKED_AT = 20_000  # of a body's words
_PAGE = re.compile(r"[\s\ufeff]*<(?:!|\?xml|/?[a-z])", re.IGNORECASE)
_STREAM = re.compile(r"[\s\ufeff]*(?::|(?:data|event|id|retry):)")
_TAG = re.compile(r"<(?P<ends>/?)(?P<name>[^\s<>/]*)[^<>]*>?")
_CODES = {  # names of codes by the HTTP status that they stand for
    400: (
        "context_length_exceeded",
        "invalid_request_error",
        "invalid_request",
        "invalid_argument",
        "bad_request",
    ),
    401: (
        "invalid_api_key",
        "authentication_error",
        "unauthenticated",
        "unauthorized",
        "invalid_authentication",
    ),
    402: ("insufficient_credits", "insufficient_balance", "payment_required", "billing_error"),
    403: ("permission_denied", "permission_error", "forbidden", "access_denied"),
    404: ("model_not_found", "not_found_error", "not_found"),
    408: ("timeout", "request_timeout", "deadline_exceeded"),
    413: ("request_too_large",),
    429: (
        *("rate_limit_exceeded", "rate_limit_error", "rate_limit", "too_many_requests", "resource_exhausted"),
        *("insufficient_quota", "quota_exceeded"),
    ),
    500: ("server_error", "internal_server_error", "internal_error", "api_error", "internal"),
    503: ("overloaded", "overloaded_error", "service_unavailable", "unavailable", "engine_overloaded"),
}
_TOO_LONG = re.compile(
    r"context_length|context length|context size|context window|maximum context|too many (input )?tokens"
    r"|(prompt|input|request|message) (is |was )?too (long|large)|reduce the length|max_model_len"
    r"|string_above_max_length|max_(completion_)?tokens\W.{0,40}(too large|at most|less than|exceeds)",
    re.IGNORECASE | re.DOTALL,
)
_FORM = re.compile(
    r"response_format|response format|json_schema|json schema|json_object|json mode|structured output"
    r"|guided|grammar|support the requested parameters|\bschema\b",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance|insufficient (credits|balance|funds)",
    re.I,
)
_REFUSED = re.compile(  # with status 400 or 422, as some say it
    r"model_not_found|invalid_api_key|api key (is )?(not valid|invalid)|invalid api key"
    r"|(unknown|invalid|no such|not a valid) model( id| name)?\b"
    r"|model\W.{0,120}?(not found|not exist|not valid|not a valid|not available)"
    r"|server is pinned to",
    re.IGNORECASE | re.DOTALL,
)
_LATER = re.compile(r"retry (in|after)|try again in|per (minute|second)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an attempt gave no reply. `outcome` is the ledger's word, `text` what a person reads. `wait` is how
    many seconds the endpoint asks for; `lost` says that it may have been paid for."""

    kind: Kind
    outcome: str
    text: str
    wait: float | None = None
    lost: bool = False
    status: int | None = None


def failure_of_status(status: int, headers: Mapping[str, str], body: str, form: Form) -> Failure:
    """What an answer with an error status means; `form` is what was asked for."""
    said = error_text(body)
    if _PAGE.match(body):
        said = f"a web page came back, {said}" if said else "a web page came back"
    text = f"{said} (HTTP {status})" if said else f"HTTP {status}"
    words = body[:_LOOKED_AT]
    wait = retry_after(headers)

    def failure(kind: Kind, outcome: str) -> Failure:
        return Failure(kind=kind, outcome=outcome, text=text, wait=wait, status=status)

    if status == 413 or _too_long(status, words):
        return failure("too long", "too long")
    if form != "text" and status in (400, 404, 415, 422, 501) and _FORM.search(words):
        return failure("unsupported", "unsupported")
    if status == 429:
        poor = _QUOTA.search(words) and (
            "insufficient_quota" in words or (wait is None and not _LATER.search(words))
        )
        return failure("refused", "refused") if poor else failure("retry", "busy")
    if status == 403 and re.search(r"moderation|flagged", words, re.IGNORECASE):
        return failure("failed", "rejected")
    if status in (401, 402, 403, 404, 407) or (status in (400, 422) and _REFUSED.search(words)):
        return failure("refused", "refused")
    if status in (408, 409) or status >= 500:
        return failure("retry", "server error")
    if status in (400, 422) and re.search(r"max_completion_tokens", words):
        return failure("new max_tokens", "rejected")
    if status in (400, 422) and re.search(r"\btemperature\b", words):
        return failure("no temperature", "rejected")
    return failure("failed", "rejected")


def _too_long(status: int, words: str) -> bool:
    if status in (400, 422):
        return _TOO_LONG.search(words) is not None
    if status == 429:  # else words about tokens are about those of a minute
        return re.search(r"request too large", words, re.IGNORECASE) is not None
    return status >= 500 and re.search(r"context (size|length|window)", words, re.IGNORECASE) is not None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks to wait: retry-after-ms, or Retry-After in seconds or as a date.

    >>> retry_after({"retry-after-ms": "250"}), retry_after({"retry-after": "3"}), retry_after({})
    (0.25, 3.0, None)
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, TypeError):
        return None
    return max(0.0, date.timestamp() - time.time())


def failure_in_body(error: Any, form: Form) -> Failure:
    """What an error in an answer of status 200 means; routers pass the failures of others on like this. Its
    code may be a status, a status as text, or a name."""
    body = json.dumps({"error": error})
    fields = [error.get(name) for name in ("code", "status", "type")] if isinstance(error, dict) else []
    status = next((found for field in fields if (found := _status_of(field))), None)
    if status is None and (_too_long(400, body) or _REFUSED.search(body) or _FORM.search(body)):
        status = 400
    if status is None:
        return Failure(kind="retry", outcome="server error", text=error_text(body))
    return replace(failure_of_status(status, {}, body, form), text=error_text(body))


def _status_of(code: Any) -> int | None:
    """The HTTP status that a code stands for.

    >>> _status_of("429"), _status_of("Rate limit exceeded"), _status_of("odd")
    (429, 429, None)
    """
    if isinstance(code, str) and code.strip().isdecimal():
        code = int(code.strip()[:9])
    if isinstance(code, int) and not isinstance(code, bool):
        return code if 400 <= code < 600 else None
    name = re.sub(r"[\W_]+", "_", code[:60]).casefold() if isinstance(code, str) else ""
    return next((status for status, names in _CODES.items() if name in names), None)


def read_json(body: str) -> Any:
    """A body's value; None where it is no JSON, or nested beyond reason. A byte order mark does no harm."""
    try:
        return json.loads(body.lstrip("\ufeff \t\r\n"))
    except (ValueError, RecursionError):
        return None


def what_came(body: str) -> str:
    """What a body is that should have been JSON, with the likely cause."""
    if not body.strip("\ufeff \t\r\n"):
        return "an empty body"
    said = error_text(body)[:120] or "nothing"
    if _STREAM.match(body):
        return (
            "a stream of events (SSE), which nobody asked for: the server, or a proxy before it, streams "
            f"whatever is asked; it begins with {said}"
        )
    if _PAGE.match(body):
        return (
            f"a web page ({said}): a proxy or a sign-in stands before the API, or the address is not the "
            "API's, which mostly ends in /v1"
        )
    return f"this: {said}"


def error_text(body: str) -> str:
    """What an error's body says, on one short line."""
    data = read_json(body)
    if data is None:
        data = _without_tags(body) if _PAGE.match(body) else body
    error = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(error, dict):
        inner = error.get("metadata")
        named = (error.get(name) for name in ("message", "detail", "msg", "code", "type"))
        parts: list[Any] = [next((value for value in named if value), error or "")]
        parts += [inner["raw"]] if isinstance(inner, dict) and "raw" in inner else []
    else:
        parts = [error]
    whole = " ".join(part if isinstance(part, str) else json.dumps(part) for part in parts)
    text = " ".join(whole[:_LOOKED_AT].split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _without_tags(page: str) -> str:
    """The text of a web page."""
    parts: list[str] = []
    at, hidden = 0, ""
    for tag in _TAG.finditer(page):
        if not hidden:
            parts.append(page[at : tag.start()])
        at, name = tag.end(), tag["name"].casefold()
        if hidden == name and tag["ends"]:
            hidden = ""
        elif not hidden and name in ("script", "style") and not tag["ends"]:
            hidden = name
    return " ".join(parts if hidden else [*parts, page[at:]])
