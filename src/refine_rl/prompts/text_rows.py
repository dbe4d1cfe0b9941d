"""Text files with rows: .jsonl, .json, .csv and .txt, each row with its number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refine_rl.prompts.json_rows import RowError, read_json, read_json_list

Rows = Iterator[tuple[str, object]]
"""(line number or name of the row, the row or the RowError that says what is wrong with it)."""
Wrong = Callable[[Sequence[str]], str]
"""The names of a table's columns -> what is wrong with them, or ""."""

_LONGEST_CELL = 2**31 - 1  # signs; what every platform's csv module can be told


def jsonl_rows(text: str, wrong: Wrong) -> Rows:
    """An object a line; empty lines are skipped."""
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: it also splits at U+2028
        if line.strip():
            try:
                yield str(number), read_json(line)
            except RowError as error:
                yield str(number), error


def json_rows(text: str, wrong: Wrong) -> Rows:
    """The items of one list."""
    try:
        for number, item in read_json_list(text):
            yield str(number), item
    except RowError as error:
        yield "1", error


def csv_rows(text: str, wrong: Wrong) -> Rows:
    """Comma-separated, with a header; cells of `messages` and `facets` are JSON."""
    before = csv.field_size_limit(_LONGEST_CELL)  # a limit of the whole process; 131,072 else
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if header and (problem := wrong(header)):
            if len(header) == 1 and ";" in header[0]:
                problem = f"has the one column `{header[0]}`: columns are separated by commas"
            yield "1", RowError(problem)
            return
        if len(set(header)) < len(header):
            yield "1", RowError("names a column twice")
            return
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                yield str(line), _csv_row(header, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        yield str(line), RowError(f"is not CSV: {error}")
    finally:
        csv.field_size_limit(before)


def _csv_row(header: list[str], cells: list[str]) -> object:
    if len(cells) != len(header):
        return RowError(f"has {len(cells)} cells, but the header has {len(header)}")
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in ("messages", "facets"):
        if row.get(name):
            try:
                row[name] = read_json(row[name])
            except RowError as error:
                return RowError(f"has {name} that cannot be read as JSON: it {error}")
    return row


def txt_rows(text: str, wrong: Wrong) -> Rows:
    """A prompt a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield str(number), {"prompt": line.strip()}
