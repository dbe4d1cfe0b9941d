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
from dataclasses import dataclass
from typing import Any, Literal

from refine_rl.llm.client import Form

Kind = Literal["retry", "refused", "unsupported", "too long", "failed", "no temperature", "new max_tokens"]

_SHOWN = 300  # characters of an error that are shown
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
    text = f"{said} (HTTP {status})" if said else f"HTTP {status}"
    words = body[:20_000]
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
    if status in (401, 402, 403, 404) or (status in (400, 422) and _REFUSED.search(words)):
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


def error_text(body: str) -> str:
    """What an error's body says, on one short line."""
    try:
        data: Any = json.loads(body)
    except ValueError:
        data = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", body, flags=re.DOTALL | re.IGNORECASE)
    parts: list[str] = []
    error = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(error, dict):
        inner = error.get("metadata")
        parts = [error.get("message") or error.get("detail") or error.get("code") or ""]
        parts += [inner["raw"]] if isinstance(inner, dict) and "raw" in inner else []
    else:
        parts = [error]
    text = " ".join(" ".join(p if isinstance(p, str) else json.dumps(p) for p in parts).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
