"""Rows of any source: a file, or a data set of the hub. Prompts and demonstrations are both read with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from refine_rl.errors import SettingsError, UserError, path_from
from refine_rl.prompts.hub_rows import at_commit, hub_rows, hub_source
from refine_rl.prompts.own_code import own_function
from refine_rl.prompts.table_rows import parquet_rows
from refine_rl.prompts.text_rows import Rows, Wrong, csv_rows, json_rows, jsonl_rows, txt_rows
from refine_rl.settings.file import read_text

__all__ = ["RowSource", "Rows", "read_rows"]

_TEXT: dict[str, Callable[[str, Wrong], Rows]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".txt": txt_rows,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSource:
    """A source that is open. `name` stands before a row's name in errors (`tasks/a.jsonl`), `origin` in
    records (`file:a.jsonl`); `rows` can be read once, and reads as it goes.

    A row is what stands there, as plain JSON values: a dict where nothing is wrong with it, another value
    where somebody wrote one, a RowError where it cannot be read.
    """

    name: str
    origin: str
    rows: Rows


def _nothing(names: Sequence[str]) -> str:
    return ""


GENERATED = 10_000
"""Pairs of a Python file without a number asked for."""


def read_rows(
    source: str, folder: Path, *, key: str, wrong: Wrong = _nothing, seed: int | None = None
) -> RowSource:
    """The rows of "file:PATH" (.jsonl, .json, .csv, .txt, .parquet) or
    "hub:OWNER/NAME@REVISION:CONFIG@SPLIT".

    With "[:ROWS]" behind either, only the first rows. `folder` is where paths start, `key` the setting (or
    flag) that names the source, for errors. `wrong` says of the names of a table's columns what is wrong with
    them: then that is the one row there is. Without @SPLIT it is the data set's `train`, or its only split;
    an @ alone names a split, and where the data set has none of that name, a revision;
    "hub:./folder" is a folder laid out as a data set of the hub, or one of `save_to_disk`. With a `seed`,
    "file:PATH.py" is a file whose function `pairs(count, seed)` makes rows, `GENERATED` of them without
    "[:ROWS]".

    Raises SettingsError for a source of another kind. UserError (no such file, no such data set, a package
    that is not installed) and MachineError (no network) come here or with the first row.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "pairs.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}')
    >>> pairs = read_rows("file:pairs.jsonl", folder, key="sft.data")
    >>> pairs.origin, *pairs.rows
    ('file:pairs.jsonl', ('1', {'prompt': '1 + 1', 'answer': '2'}))
    """
    whole, most = _without_count(source)
    kind, _, name = whole.partition(":")
    if kind == "hub" and name:
        wanted = hub_source(name, key, source)  # a name that is none shows at once
        rows = hub_rows(wanted, folder, wrong, most=most)
        return RowSource(name=str(wanted), origin=str(wanted), rows=rows)
    if kind == "file" and name:
        path = path_from(folder, name)
        if path.suffix == ".py" and seed is not None:
            pairs = own_function(path, "pairs", "(count, seed)", key=key)
            made = pairs(most or GENERATED, seed)
            rows = ((f"pairs[{number}]", row) for number, row in enumerate(made[:most]))
            return RowSource(name=str(path), origin=f"file:{path.name}", rows=rows)
        rows = islice(_file_rows(path, key, wrong), most)
        return RowSource(name=str(path), origin=f"file:{path.name}", rows=rows)
    raise SettingsError(f'`{key}` must be "file:PATH" or "hub:OWNER/NAME", not {source!r}')


def held(source: str, key: str) -> str:
    """The source with the commit at which its data set is now; a source of another kind, and where that
    cannot be told, as it is. Raises SettingsError as `hub_source`, and for a revision that there is not."""
    whole, _ = _without_count(source)
    kind, _, name = whole.partition(":")
    if kind != "hub" or not name:
        return source
    return at_commit(hub_source(name, key, source), key).written + source.removeprefix(whole)


def _without_count(source: str) -> tuple[str, int | None]:
    """
    >>> _without_count("file:a.jsonl[:2_000]"), _without_count("file:a.jsonl")
    (('file:a.jsonl', 2000), ('file:a.jsonl', None))
    """
    found = re.fullmatch(r"(.*)\[:([1-9][0-9_]*)\]", source)
    return (found[1], int(found[2].replace("_", ""))) if found else (source, None)


def _file_rows(path: Path, key: str, wrong: Wrong) -> Rows:
    suffix = path.suffix.lower()
    way_out = f"`{key}` is relative to the task's folder" if "." in key else "check the path"
    if suffix == ".parquet":
        if not path.is_file():
            raise UserError(f"{path}: no such file; {way_out}")
        return parquet_rows(path, wrong)
    reader = _TEXT.get(suffix)
    if reader is None:
        if not path.exists():
            raise UserError(f"{path}: no such file; {way_out}")
        known = [*_TEXT, ".parquet", *([".py"] if key in ("prompts.source", "sft.data") else [])]
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in known)
            there = f"; in it are {', '.join(inside[:3])}" if inside else ""
            raise UserError(f"{path}: a folder, where a file of rows is needed ({', '.join(known)}){there}")
        raise UserError(f"{path}: not a kind of file that rows are read from ({', '.join(known)})")
    return reader(read_text(path, way_out=way_out), wrong)
