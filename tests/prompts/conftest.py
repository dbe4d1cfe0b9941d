"""A scripted writer: it reads what it is asked and answers as a person would, or as a test tells it to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest

from refine_rl.llm.client import Request

FACETS = {"topic": ("tea", "rain", "chess"), "tone": ("calm", "angry"), "length": ("short", "long")}
Write = Callable[[int, Mapping[str, str], int], str]  # number of its prompts so far, combination, batch


def facets_reply(facets: Mapping[str, tuple[str, ...]] = FACETS) -> str:
    return json.dumps({"facets": [{"name": n, "values": list(v)} for n, v in facets.items()]})


def plain(number: int, combination: Mapping[str, str], batch: int) -> str:
    """Words of its own for every prompt."""
    words = " ".join(f"{value}{number}" for value in combination.values())
    return f"Tell me {words} number {number}?"


class Brain:
    """Answers a request by what it is about. `write` makes one prompt; `calls` has what was asked."""

    def __init__(self, write: Write = plain, **replies: str | Callable[[Request], str | Exception]) -> None:
        self.write = write
        self.replies = replies
        self.calls: list[str] = []

    def __call__(self, request: Request) -> str | Exception:
        self.calls.append(request.about)
        kind = "check" if request.about.endswith("check") else request.about
        if re.fullmatch(r"\d+/\d+", request.about):
            kind = "batch"
        reply = self.replies.get(kind)
        if reply is not None:
            return reply if isinstance(reply, str) else reply(request)
        if kind == "facets":
            return facets_reply()
        if kind == "system":
            return json.dumps({"system": "You answer kindly."})
        if kind == "check":
            return '{"mistakes": []}'
        return self.batch(request)

    def batch(self, request: Request) -> str:
        round_number, batch = map(int, request.about.split("/"))
        entries = [
            {"combination": n, "prompt": self.write(100 * (10 * round_number + batch) + n, c, batch)}
            for n, c in combinations(request).items()
        ]
        return json.dumps({"prompts": entries})


def combinations(request: Request) -> dict[int, dict[str, str]]:
    """What a batch's request asks for."""
    text = request.messages[0]["content"]
    part = text.split("numbered combinations:\n")[1].split("\n\n")[0]
    found = {}
    for line in part.splitlines():
        number, _, rest = line.partition(". ")
        found[int(number)] = dict(pair.split(": ", 1) for pair in rest.split("; "))
    return found


@pytest.fixture(scope="session")
def scripts() -> SimpleNamespace:
    """The above, for tests: `scripts.Brain(...)`, `scripts.plain`, `scripts.facets_reply(...)` ..."""
    return SimpleNamespace(
        Brain=Brain, FACETS=FACETS, combinations=combinations, facets_reply=facets_reply, plain=plain
    )
