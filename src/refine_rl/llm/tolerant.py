"""Reading JSON as LLMs write it.

Strict JSON is read strictly. Where that fails, the usual slips are understood: single quotes, quotes and line
breaks inside strings, trailing commas, comments, keys without quotes, True, False and None. NaN and Infinity
are not numbers here, and a key that stands twice with different values is refused: which of the two was meant
must not be guessed.
"""

from __future__ import annotations

import json
import re
from typing import Any

_DEPTH = 64
_SPACE = re.compile(r"(?:[\s\ufeff]|//[^\n]*|#[^\n]*)*")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w-]*")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_AFTER_STRING = re.compile(r"\s*(?:[,:}\]]|//|#|/\*|\Z)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Malformed(Exception):  # noqa: N818 - a finding, not a failure
    """Not JSON, also with tolerance; `at` is the place in the text."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__(what)
        self.at = at


class Truncated(Malformed):
    """The text ends before the value does. `quotes`: inside a string that has quotes in it, so that perhaps
    one of them was meant to end it."""

    quotes = False


def read_strictly(text: str, start: int) -> tuple[Any, int] | None:
    """The strict JSON object or list that begins at `start`, and where it ends; None where it is not that."""
    decoder = json.JSONDecoder(
        object_pairs_hook=_no_twins, parse_constant=_no_constant, parse_float=_finite, strict=False
    )
    try:
        value, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError, Malformed):
        return None
    return _printable(value), end


def read_tolerantly(text: str, start: int) -> tuple[Any, int]:
    """The same with every slip that is understood. Raises Malformed.

    >>> read_tolerantly("so: {'a': [1, 2,],}.", 4)
    ({'a': [1, 2]}, 19)
    """
    reader = _Reader(text, start)
    return _printable(reader.value(0)), reader.at


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is not a number in JSON", 0)


def _finite(digits: str, at: int = 0) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise Malformed(f"{digits[:20]} is too large for a number", at)
    return value


def _no_twins(pairs: list[tuple[str, Any]], at: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise Malformed(f"the key {json.dumps(key)} stands twice in one object", at)
        found[key] = value
    return found


def _printable(value: Any) -> Any:
    """Halves of surrogate pairs, which no file can hold, become replacement characters."""
    if isinstance(value, str):
        if not _SURROGATE.search(value):
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_printable(v) for v in value]
    if isinstance(value, dict):
        return {_printable(k): _printable(v) for k, v in value.items()}
    return value


class _Reader:
    """A recursive descent over `text`; `at` is the next character."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.at = start

    def value(self, depth: int) -> Any:
        if depth > _DEPTH:
            raise Malformed("it is nested too deeply", self.at)
        sign = self._peek()
        if sign == "{":
            return self._object(depth)
        if sign == "[":
            return self._list(depth)
        if sign in "\"'":
            return self._string()
        if number := _NUMBER.match(self.text, self.at):
            return self._number(number)
        word = _WORD.match(self.text, self.at)
        if word is not None and word[0] in _WORDS:
            self.at = word.end()
            return _WORDS[word[0]]
        if word is not None and word[0] in ("NaN", "Infinity"):
            raise Malformed(f"{word[0]} is not a number in JSON", self.at)
        if word is not None and word.end() == len(self.text):
            raise Truncated("the text ends in the middle of a value", self.at)
        raise Malformed("a value is expected", self.at)

    def _object(self, depth: int) -> dict[str, Any]:
        begin = self.at
        self.at += 1
        pairs: list[tuple[str, Any]] = []
        while self._peek() != "}":
            if self._peek() in "\"'":
                key = self._string()
            elif word := _WORD.match(self.text, self.at):
                key, self.at = word[0], word.end()
            else:
                raise Malformed("a key or } is expected", self.at)
            if self._peek() != ":":
                raise Malformed(": is expected", self.at)
            self.at += 1
            pairs.append((key, self.value(depth + 1)))
            self._separate("}")
        self.at += 1
        return _no_twins(pairs, begin)

    def _list(self, depth: int) -> list[Any]:
        self.at += 1
        values = []
        while self._peek() != "]":
            values.append(self.value(depth + 1))
            self._separate("]")
        self.at += 1
        return values

    def _string(self) -> str:
        quote = self.text[self.at]
        begin = at = self.at + 1
        quotes = False
        parts: list[str] = []
        while at < len(self.text):
            sign = self.text[at]
            if sign == "\\" and at + 1 < len(self.text):
                parts.append(self.text[begin:at])
                decoded, at = self._escape(at + 1)
                parts.append(decoded)
                begin = at
            elif sign == quote and _AFTER_STRING.match(self.text, at + 1):
                parts.append(self.text[begin:at])
                self.at = at + 1
                return "".join(parts)
            else:
                quotes = quotes or sign == quote
                at += 1
        problem = Truncated("the text ends in the middle of a string", self.at)
        problem.quotes = quotes
        raise problem

    def _escape(self, at: int) -> tuple[str, int]:
        """What the escape whose letter is at `at` stands for, and where the string goes on."""
        letter = self.text[at]
        if letter == "u":
            digits = self.text[at + 1 : at + 5]
            if re.fullmatch(r"[0-9a-fA-F]{4}", digits):
                return chr(int(digits, 16)), at + 5
        if letter in _ESCAPES:
            return _ESCAPES[letter], at + 1
        return (letter if letter in "\"'\\/" else "\\" + letter), at + 1

    def _number(self, number: re.Match[str]) -> int | float:
        begin, self.at = self.at, number.end()
        digits = number[0]
        if re.fullmatch(r"[-+]?\d+", digits) and len(digits) < 400:
            return int(digits)
        return _finite(digits, begin)

    def _peek(self) -> str:
        """The next character that says something."""
        self._skip_space()
        while self.text.startswith("/*", self.at):
            ends = self.text.find("*/", self.at + 2)
            if ends < 0:
                raise Truncated("the text ends in the middle of a comment", self.at)
            self.at = ends + 2
            self._skip_space()
        if self.at >= len(self.text):
            raise Truncated("the text ends in the middle of a value", self.at)
        return self.text[self.at]

    def _skip_space(self) -> None:
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space is not None else self.at

    def _separate(self, end: str) -> None:
        if self._peek() == ",":
            self.at += 1
        elif self._peek() != end:
            raise Malformed(f"a comma or {end} is expected", self.at)
