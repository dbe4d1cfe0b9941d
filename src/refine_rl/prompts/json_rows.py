"""JSON that a person wrote, read strictly: what Python's reader lets pass, or fails over, is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

_SHOWN = 10  # broken rows that an error names


class RowError(ValueError):
    """What is wrong with a row; the caller adds the file and the line."""


class NoColumnError(RowError):
    """A row without the column that is wanted; `aside` says so of one row beside others that have it, where
    to name another column would lose those."""

    def __init__(self, text: str, aside: str) -> None:
        super().__init__(text)
        self.aside = aside


def first_broken(broken: Sequence[str]) -> str:
    """What is wrong with rows, a line each: the first ones, and how many more there are.

    >>> first_broken([f"row {n} is empty" for n in range(1, 13)]).splitlines()[9:]
    ['row 10 is empty', '... and 2 more']
    """
    more = f"\n... and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return "\n".join(broken[:_SHOWN]) + more


def read_json(text: str) -> Any:
    """The value of a JSON text.

    Raises RowError for what is not JSON, a key that stands twice in one object (the first one would be lost),
    a number that is too long, and brackets that are nested too deeply to be read.

    >>> read_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(f"is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise RowError("is nested too deeply: too many brackets inside each other") from None


def read_json_list(text: str) -> Iterator[tuple[int, Any]]:
    """The items of a text that is a JSON list, each with its number from 1; an item that cannot be read is
    the RowError that says why (with the line in the file), and the last one.

    Raises RowError with the line where the text is no JSON list.
    """
    try:
        items = read_json(text) if text.strip() else []
    except RowError as error:
        yield from _items_up_to(text, error)
        return
    if not isinstance(items, list):
        raise RowError("is not a list of prompts: write [{...}, {...}], or one object a line in a .jsonl")
    yield from enumerate(items, 1)


def _items_up_to(text: str, error: RowError) -> Iterator[tuple[int, Any]]:
    """The items before the first that cannot be read, then what is wrong with that one."""
    at = _next(text, 0)
    if text[at : at + 1] != "[":
        raise error
    at, number = _next(text, at + 1), 1
    while at < len(text) and text[at] != "]":
        try:
            item, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as wrong:
            where = f"line {wrong.lineno}, column {wrong.colno}"
            yield number, RowError(f"is not JSON: {wrong.msg} at {where}")
            return
        except (RecursionError, RowError) as wrong:
            what = wrong if isinstance(wrong, RowError) else error
            yield number, RowError(f"{what} (line {text.count(chr(10), 0, at) + 1})")
            return
        yield number, item
        at = _next(text, end)
        if text[at : at + 1] not in (",", "]"):
            break
        at, number = _next(text, at + (text[at] == ",")), number + 1
    line = text.count("\n", 0, at) + 1
    yield number, RowError(f"is not JSON: the list ends in a wrong way at line {line}")


def _next(text: str, at: int) -> int:
    """The place of the next sign that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _whole_number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's guard against texts whose reading would take for ever
        raise RowError(
            f"has a whole number of {len(digits):,} digits, which is too long to be read"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError(f"names {twice!r} twice in one object")
    return found


_DECODER = json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=_object)
