"""Finding the JSON in an LLM's reply, among thoughts, fences and prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from refine_rl.llm.tolerant import Malformed, Truncated, read_value

_BEGIN = re.compile(r"[\[{]")
_LIKE_JSON = re.compile(r"""\{\s*(?:["'}]|\w+\s*:)|\[\s*["'{\[]""")
_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>")
_THOUGHT_BEGINS = re.compile(r"\s*<(think|thinking|thought|reasoning)>")
_TRIES = 200  # places at which a value may begin, before the reply is given up
_SHOWN = 40


class Unusable(Exception):  # noqa: N818 - a finding, to be said to the model
    """A reply cannot be used; the text says exactly why, in words to the model that wrote it. `no_json`:
    there was not even a JSON value in it."""

    def __init__(self, what: str, *, no_json: bool = False) -> None:
        super().__init__(what)
        self.no_json = no_json


def find_values(text: str) -> Iterator[Any]:
    """Every JSON object and list that stands in the reply, the outermost ones only. Raises Unusable where
    there is none, or one that cannot be read.

    What comes before the end of a thought is no answer. A value is read whole before the search goes on
    behind it, so text that is quoted inside an answer is never taken for an answer itself.
    """
    text = _answer(text.removeprefix("\ufeff"))
    found: list[Any] = []
    first: Malformed | None = None
    at = 0
    for _ in range(_TRIES):
        begin = _BEGIN.search(text, at)
        thought = _THOUGHT_ENDS.search(text, at, begin.start() if begin else len(text))
        if thought is not None:
            found, first = [], None
        if begin is None:
            break
        try:
            value, at = read_value(text, begin.start())
            found.append(value)
        except Malformed as problem:
            first = first or problem
            at = begin.start() + 1
            if _LIKE_JSON.match(text, begin.start()):  # what lies inside a broken answer is not the answer
                thought = _THOUGHT_ENDS.search(text, at)
                if thought is None:
                    raise _unusable(text, problem) from None
                at = thought.start()
    if not found:
        raise _unusable(text, first)
    yield from found


def _answer(text: str) -> str:
    """The text behind the thought that it begins with."""
    begins = _THOUGHT_BEGINS.match(text)
    if begins is None:
        return text
    ends = text.find(f"</{begins[1]}>", begins.end())
    if ends < 0:
        raise Unusable("The reply ends in the middle of a thought, before any answer.", no_json=True)
    return text[ends + len(begins[1]) + 3 :]


def _unusable(text: str, problem: Malformed | None) -> Unusable:
    if not text.strip():
        return Unusable("The reply is empty.", no_json=True)
    if problem is None:
        return Unusable("There is no JSON in the reply.", no_json=True)
    if isinstance(problem, Truncated):
        shown, hint = _quoted(text[-_SHOWN:].strip()), ""
        if problem.quotes:
            begins = _quoted(text[problem.at : problem.at + _SHOWN])
            hint = f" The string that begins with {begins} has quotes in it that are not escaped."
        return Unusable(f"The reply ends in the middle of its JSON, after {shown}.{hint}", no_json=True)
    line = text.count("\n", 0, problem.at) + 1
    near = text[problem.at : problem.at + _SHOWN].strip()
    return Unusable(f"The JSON cannot be read: in line {line}, at {_quoted(near)}: {problem}.", no_json=True)


def _quoted(text: str) -> str:
    return f"`{text}`"
