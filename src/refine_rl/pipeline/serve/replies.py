"""Answers in the form of OpenAI's chat completions: one JSON object, or a stream of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token of an answer as text, and its log-prob."""

    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """An answer as it stands: its text without what stopped it, its tokens, the one that ended it among them;
    None while it goes on."""

    text: str
    tokens: int
    finish: Finish | None
    told: tuple[Token, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What stands in every part of a reply."""

    id: str
    created: int
    model: str
    prompt_tokens: int
    logprobs: bool = field(default=False)


def completion(head: Head, answers: Sequence[Written]) -> dict[str, Any]:
    """The whole reply."""
    choices = [
        {
            "index": n,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _logprobs(head, answer.told),
            "finish_reason": answer.finish,
        }
        for n, answer in enumerate(answers)
    ]
    return {**_begun(head, "chat.completion"), "choices": choices, "usage": usage(head, answers)}


def chunk(
    head: Head, member: int, delta: dict[str, str], finish: str | None = None, told: Sequence[Token] = ()
) -> dict[str, Any]:
    """One event of a stream, of one answer."""
    choice = {
        "index": member,
        "delta": delta,
        "logprobs": _logprobs(head, told) if told else None,
        "finish_reason": finish,
    }
    return {**_begun(head, "chat.completion.chunk"), "choices": [choice]}


def last_chunk(head: Head, answers: Sequence[Written]) -> dict[str, Any]:
    """The event that tells how much was read and written; it has no answer."""
    return {**_begun(head, "chat.completion.chunk"), "choices": [], "usage": usage(head, answers)}


def usage(head: Head, answers: Sequence[Written]) -> dict[str, int]:
    written = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": head.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": head.prompt_tokens + written,
    }


def event(body: dict[str, Any] | None) -> bytes:
    """As a line of server-sent events; None is the end of all."""
    return b"data: " + (b"[DONE]" if body is None else json.dumps(body).encode()) + b"\n\n"


def _begun(head: Head, kind: str) -> dict[str, Any]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}


def _logprobs(head: Head, told: Sequence[Token]) -> dict[str, Any] | None:
    if not head.logprobs:
        return None
    content = [
        {
            "token": token.text,
            "logprob": token.logprob,
            "bytes": list(token.text.encode(errors="replace")),
            "top_logprobs": [],
        }
        for token in told
    ]
    return {"content": content, "refusal": None}
