"""Finding the JSON in an LLM's reply, among thoughts, fences and prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from refine_rl.llm.tolerant import Malformed, Truncated, read_strictly, read_tolerantly

_LIKE_JSON = re.compile(r"""\{\s*(?:["'}]|\w+\s*:)|\[\s*["'{\[]""")
_TAGS = "think|thinking|thought|reasoning|reflection|seed:think"
_NEXT = re.compile(rf"(?P<tag></?(?:{_TAGS})>|\[/?THINK\]|◁/?think▷)|[\[{{]")
_THOUGHT_END = re.compile(rf"</(?:{_TAGS})>|\[/THINK\]|◁/think▷")
_BLANK = "\ufeff \t\r\n"
# Each costs a look at the whole text: a value that reaches its end unfinished, and an error of the strict
# reader, which counts the lines before it.
_CUTS = 8  # before the reply is given up
_FAILURES = 32  # before all is read with tolerance
_SHOWN = 40


class Unusable(Exception):  # noqa: N818 - a finding, to be said to the model
    """A reply cannot be used; the text says exactly why, in words to the model that wrote it. `no_json`:
    there was not even a JSON value in it."""

    def __init__(self, what: str, *, no_json: bool = False) -> None:
        super().__init__(what)
        self.no_json = no_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A JSON object or list, and where it stands in a reply's text.

    >>> found = Found(value={"a": 1}, text="So: {'a': 1}. Done.", begin=4, end=12)
    >>> found.written, found.behind
    ("{'a': 1}", '. Done.')
    """

    value: Any
    text: str
    begin: int
    end: int

    @property
    def written(self) -> str:
        return self.text[self.begin : self.end]

    @property
    def behind(self) -> str:
        return self.text[self.end :]


def find_values(text: str) -> list[Found]:
    """Every JSON object and list that stands in the reply, the outermost ones only, in their order. Raises
    Unusable where there is none, or one that cannot be read.

    What comes before the end of a thought is no answer, and a thought that has no end has none behind it. A
    value is read whole before the search goes on behind it, so text that is quoted inside an answer is never
    taken for an answer itself. Every character is looked at a bounded number of times.
    """
    return _Search(text.lstrip(_BLANK)).all()


class _Search:
    """One pass over the reply; `at` is where it goes on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: list[Found] = []
        self.first: Malformed | None = None  # of what cannot be read and might be prose
        self.thinks = False
        self.failed = 0
        self.cuts = 0

    def all(self) -> list[Found]:
        while begin := _NEXT.search(self.text, self.at):
            if begin["tag"]:
                self._turn(begin)
                continue
            try:
                value, self.at = self._read(begin.start())
                self.found.append(Found(value=value, text=self.text, begin=begin.start(), end=self.at))
            except Malformed as problem:
                self._skip(begin.start(), problem)
        if self.thinks or not self.found:
            raise Unusable(self._why(self.first), no_json=True)
        return self.found

    def _read(self, begin: int) -> tuple[Any, int]:
        strict = read_strictly(self.text, begin) if self.failed < _FAILURES else None
        if strict is not None:
            return strict
        self.failed += 1
        return read_tolerantly(self.text, begin)

    def _turn(self, tag: re.Match[str]) -> None:
        """A thought begins or ends; what stood before its end is forgotten."""
        self.at = tag.end()
        self.thinks = "/" not in tag[0]
        if not self.thinks:
            self.found, self.first = [], None

    def _skip(self, begin: int, problem: Malformed) -> None:
        """Goes behind what cannot be read, where that may be prose; what lies inside is no answer either."""
        self.first = self.first or problem
        self.cuts += isinstance(problem, Truncated)
        if not _LIKE_JSON.match(self.text, begin) and self.cuts < _CUTS:
            self.at = max(begin + 1, problem.at)
            return
        ends = _THOUGHT_END.search(self.text, begin) if self.cuts < _CUTS else None
        if ends is None:
            raise Unusable(self._why(problem), no_json=True) from None
        self._turn(ends)

    def _why(self, problem: Malformed | None) -> str:
        if self.thinks:
            return "The reply ends in the middle of a thought, before any answer."
        if problem is None:
            return "There is no JSON in the reply." if self.text.strip() else "The reply is empty."
        near = self.text[problem.at : problem.at + _SHOWN]
        if isinstance(problem, Truncated):
            hint = f" The string that begins with `{near}` has quotes in it that are not escaped."
            shown = self.text[-_SHOWN:].strip()
            return (
                f"The reply ends in the middle of its JSON, after `{shown}`.{hint if problem.quotes else ''}"
            )
        line = self.text.count("\n", 0, problem.at) + 1
        return f"The JSON cannot be read: in line {line}, at `{near.strip()}`: {problem}."
