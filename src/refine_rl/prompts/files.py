"""Prompt files: .jsonl, .json, .csv and .txt, read with the number of every row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from refine_rl.config_file import read_text
from refine_rl.errors import UserError
from refine_rl.prompts.candidates import Candidate, RowError, candidate

_SHOWN = 10  # broken rows that an error names

Rows = Iterator[tuple[str, object]]  # (line number or name of the row, the row or what is wrong with it)


def read_prompt_file(path: Path) -> list[Candidate]:
    """Every row of a file, in its order.

    Raises UserError that names the broken rows by line (in a .json list: by item), ids given twice, an
    empty file, or a kind of file that is not known.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join([*_READERS, ".py"])
        raise UserError(f"{path}: not a kind of file that prompts are read from ({known})")
    text = read_text(path, way_out="`prompts.source` is relative to the task's folder")
    return check_rows(reader(text), path)


def check_rows(rows: Rows, path: Path) -> list[Candidate]:
    """Make candidates of the rows of a file; all broken ones are named in one UserError."""
    found: list[Candidate] = []
    broken: list[str] = []
    first_with_id: dict[str, str] = {}
    for name, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            new = candidate(row, f"file:{path.name}:{name}")
            if new.id is not None and first_with_id.setdefault(new.id, name) != name:
                raise RowError(f"has the id {new.id!r}, which {first_with_id[new.id]} has already")
        except RowError as error:
            broken.append(f"{path}:{name} {error}")
        else:
            found.append(new)
    if broken:
        more = f"\n... and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise UserError("\n".join(broken[:_SHOWN]) + more)
    if not found:
        raise UserError(f"{path}: there are no prompts in it")
    return found


def _jsonl(text: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: it also splits at U+2028
        if line.strip():
            try:
                yield str(number), json.loads(line)
            except json.JSONDecodeError as error:
                yield str(number), RowError(f"is not JSON: {error.msg} at column {error.colno}")


def _json_list(text: str) -> Rows:
    try:
        items = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        yield str(error.lineno), RowError(f"is not JSON: {error.msg} at column {error.colno}")
        return
    if not isinstance(items, list):
        yield (
            "1",
            RowError("is not a list of prompts: write [{...}, {...}], or one object a line in a .jsonl"),
        )
        return
    for number, item in enumerate(items, 1):
        yield str(number), item


def _csv(text: str) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if header and not {"prompt", "messages"} & set(header):
            semicolon = " (columns are separated by commas)" if ";" in header[0] else ""
            yield "1", RowError(f"has no column `prompt` or `messages` in its header{semicolon}")
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


def _csv_row(header: list[str], cells: list[str]) -> object:
    if len(cells) != len(header):
        return RowError(f"has {len(cells)} cells, but the header has {len(header)}")
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in ("messages", "facets"):
        if row.get(name):
            try:
                row[name] = json.loads(row[name])
            except json.JSONDecodeError:
                return RowError(f"has {name} that are not JSON")
    return row


def _txt(text: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield str(number), {"prompt": line.strip()}


_READERS: dict[str, Callable[[str], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _json_list,
    ".csv": _csv,
    ".txt": _txt,
}
