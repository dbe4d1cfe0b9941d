"""Prompt files: .jsonl, .json, .csv and .txt, read with the number of every row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError
from refine_rl.prompts.candidates import Candidate, RowError, candidate
from refine_rl.prompts.columns import AS_THEY_ARE, Columns
from refine_rl.prompts.json_rows import read_json, read_json_list
from refine_rl.settings.file import read_text

_SHOWN = 10  # broken rows that an error names
_LONGEST_CELL = 2**31 - 1  # signs; what every platform's csv module can be told

Rows = Iterator[tuple[str, object]]  # (line number or name of the row, the row or what is wrong with it)


def read_prompt_file(path: Path, columns: Columns = AS_THEY_ARE) -> list[Candidate]:
    """Every row of a file, in its order; `columns` says where prompt and data stand.

    Raises UserError that names the broken rows by line (in a .json list: by item), ids given twice, an
    empty file, or a kind of file that is not known.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join([*_READERS, ".py"])
        raise UserError(f"{path}: not a kind of file that prompts are read from ({known})")
    text = read_text(path, way_out="`prompts.source` is relative to the task's folder")
    return check_rows(reader(text, columns), path, columns)


def check_rows(rows: Rows, path: Path, columns: Columns = AS_THEY_ARE) -> list[Candidate]:
    """Make candidates of the rows of a file; all broken ones are named in one UserError."""
    found: list[Candidate] = []
    broken: list[tuple[str, str]] = []
    first_with_id: dict[str, str] = {}
    for name, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            new = candidate(row, f"file:{path.name}:{name}", columns)
            if new.id is not None and first_with_id.setdefault(new.id, name) != name:
                raise RowError(f"has the id {new.id!r}, which {first_with_id[new.id]} has already")
        except RowError as error:
            broken.append((name, str(error)))
        else:
            found.append(new)
    if broken:
        raise UserError(_told(path, broken, all_alike=not found))
    if not found:
        raise UserError(f"{path}: there are no prompts in it")
    return found


def _told(path: Path, broken: list[tuple[str, str]], *, all_alike: bool) -> str:
    """The broken rows by name; once where the same is wrong with every row of the file."""
    if all_alike and len(broken) > 1 and len({text for _, text in broken}) == 1:
        return f"{path}:{broken[0][0]} {broken[0][1]} (so it is with all {len(broken)} rows)"
    more = f"\n... and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return "\n".join(f"{path}:{name} {text}" for name, text in broken[:_SHOWN]) + more


def _jsonl(text: str, columns: Columns) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: it also splits at U+2028
        if line.strip():
            try:
                yield str(number), read_json(line)
            except RowError as error:
                yield str(number), error


def _json_list(text: str, columns: Columns) -> Rows:
    try:
        for number, item in read_json_list(text):
            yield str(number), item
    except RowError as error:
        yield "1", error


def _csv(text: str, columns: Columns) -> Rows:
    before = csv.field_size_limit(_LONGEST_CELL)  # a limit of the whole process; 131,072 else
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if header and (problem := columns.missing(header)):
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


def _txt(text: str, columns: Columns) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield str(number), {"prompt": line.strip()}


_READERS: dict[str, Callable[[str, Columns], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _json_list,
    ".csv": _csv,
    ".txt": _txt,
}
