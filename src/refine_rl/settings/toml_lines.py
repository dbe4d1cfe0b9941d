"""On which line of a TOML text does a key stand? The standard parser does not say.

The text must already have passed `tomllib`: only what decides where keys and values begin and end is
looked at (tables, arrays of tables, dotted keys, inline tables, arrays, strings over several lines).
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]  # ("reward", "rules", 0, "max")

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANKS = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?""""{0,2}'  # up to two quotes may stand before the closing three
    r"|'''.*?''''{0,2}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")  # numbers, booleans, dates (which may contain a space)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of each table, key and list item in a valid TOML text.

    >>> key_lines("a = 1\\n[b]\\nc.d = [\\n  2,\\n]\\n")[("b", "c", "d", 0)]
    4
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0] + [m.end() for m in re.finditer("\n", text)]
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}  # how many tables each array of tables has so far

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_SPACE)
        while self._at < len(self._text):
            line = self._line()
            if self._text.startswith("[[", self._at):
                self._at += 2
                table = self._add_table(self._key(), line, in_array=True)
                self._at += 2
            elif self._text[self._at] == "[":
                self._at += 1
                table = self._add_table(self._key(), line, in_array=False)
                self._at += 1
            else:
                self._pair(table)
            self._skip(_SPACE)
        return self._lines

    def _add_table(self, keys: list[str], line: int, *, in_array: bool) -> KeyPath:
        """The path of a header's table; in the headers, an array's name means its newest table."""
        path: KeyPath = ()
        for index, key in enumerate(keys):
            path += (key,)
            self._lines.setdefault(path, line)
            if in_array and index == len(keys) - 1:
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path += (self._lengths[path] - 1,)
                self._lines.setdefault(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path += (key,)
            self._lines.setdefault(path, line)
        self._at += 1  # the "="
        self._skip(_BLANKS)
        self._value(path)

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANKS)
            quoted = self._text[self._at] in "\"'"
            word = self._skip(_STRING if quoted else _BARE_KEY)
            keys.append(str(tomllib.loads(f"key = {word}")["key"]) if quoted else word)
            self._skip(_BLANKS)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._skip(_STRING if first in "\"'" else _SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while not self._ends("]"):
            self._lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._ends("}"):
            self._pair(path)

    def _ends(self, bracket: str) -> bool:
        """Go to the next item, or behind the closing bracket."""
        self._skip(_SPACE)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_SPACE)
        if self._text[self._at] != bracket:
            return False
        self._at += 1
        return True

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"line {self._line()}: not valid TOML")
        self._at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
