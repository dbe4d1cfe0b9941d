"""Regular expressions of the user, on text of a model, in bounded time.

Python's `re` tries exponentially many ways on some patterns, and keeps the interpreter's lock all the while:
one answer would freeze the process, Ctrl-C included. The package `regex` can be given a time limit. It reads
most patterns as `re` does, `written_for_regex` sees to the rest, and what `re` refuses is refused. One
difference is left: \\w, and so \\b, follows Unicode: combining marks belong to words, signs such as ² do not.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import regex

LIMIT = 1.0
"""Seconds of the process's computing that one search may take. Sensible patterns need a thousandth of that on
a page of text."""

_ESCAPED = r"\\N\{[^}]*\}|\\."
_OUTSIDE = rf"{_ESCAPED}|\{{(?:\d+|\d*,\d*)\}}|\(\?\#[^)]*\)|(?P<set>\[\^?\]?)|[^\[{{]"
_PLAIN = re.compile(_OUTSIDE, re.DOTALL)
_VERBOSE = re.compile(rf"\#[^\n]*|{_OUTSIDE}", re.DOTALL)
_IN_SET = re.compile(rf"{_ESCAPED}|(?P<end>\])|[^\[]", re.DOTALL)


class TooSlow(Exception):  # noqa: N818  a statement about the pattern, shown as it is
    """A pattern did not come to an end on a text."""


class Pattern:
    """A compiled pattern. Raises re.error for what is no regular expression of Python's `re`.

    >>> Pattern(r"(?i)yes").search("Yes!"), Pattern(r"\\n+").split("a\\n\\nb")
    (True, ['a', 'b'])
    """

    def __init__(self, text: str) -> None:
        import regex  # late: the settings are read without it

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what written_for_regex puts into plain words
            verbose = bool(re.compile(text).flags & re.VERBOSE)
        self.text = text
        written = written_for_regex(text, verbose=verbose)
        try:
            self._regex: regex.Pattern[str] = regex.compile(written, regex.VERSION0)
        except regex.error as error:
            raise re.error(str(error)) from None

    def search(self, text: str) -> bool:
        """Whether it occurs in the text; raises TooSlow."""
        return bool(self._limited(self._regex.search, text))

    def fullmatch(self, text: str) -> bool:
        """Whether it is the whole text; raises TooSlow."""
        return bool(self._limited(self._regex.fullmatch, text))

    def split(self, text: str) -> list[str]:
        """What stands between its matches; raises TooSlow."""
        # With groups in the pattern, their texts stand between the pieces.
        pieces: list[str] = self._limited(self._regex.split, text)
        return pieces[:: self._regex.groups + 1]

    def _limited(self, work: Any, text: str) -> Any:
        try:
            return work(text, timeout=LIMIT, concurrent=True)
        except TimeoutError:
            raise TooSlow(
                f"the pattern {self.text!r} did not come to an end within {LIMIT:g} s on a text of "
                f"{len(text)} characters: what repeats in it can match the same text in many ways, as in "
                "(a+)+ or (.|..)+; write it so that it can match in one way only"
            ) from None


def written_for_regex(text: str, *, verbose: bool = False) -> str:
    r"""The pattern as `regex` must be given it, to mean what it means for `re`: a brace that is no count of
    repeats is a brace (for `regex` it may allow errors), and so is a bracket within a set (for `regex` it may
    begin a class of POSIX). `verbose`: what follows a # is a comment.

    >>> written_for_regex(r"boxed{e}a{2,3}[[:alpha:]]\{d}")
    'boxed\\{e}a{2,3}[\\[:alpha:]]\\{d}'
    """
    found: list[str] = []
    place, in_set = 0, False
    while place < len(text):
        plain = _IN_SET if in_set else _VERBOSE if verbose else _PLAIN
        match = plain.match(text, place)
        piece = match.group() if match else text[place]
        if match and match.lastgroup == "set":
            in_set = True
        elif match and match.lastgroup == "end":
            in_set = False
        found.append(piece if match or piece not in "[{" else f"\\{piece}")
        place += len(piece)
    return "".join(found)


pattern = lru_cache(maxsize=64)(Pattern)
"""`Pattern`, made once."""
