"""Rows of typed tables (parquet, data sets of the hub) as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from refine_rl.errors import UserError
from refine_rl.prompts.json_rows import RowError
from refine_rl.prompts.text_rows import Rows, Wrong

HUB_EXTRA = "pip install 'refine-rl[hub]'"
_BATCH = 256  # rows that are in memory at once


def parquet_rows(path: Path, wrong: Wrong) -> Rows:
    """The rows of a parquet file, a batch at a time, so that whoever stops early has read little.

    Raises UserError where pyarrow is not installed, or where it is no parquet file.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: parquet files need pyarrow: {HUB_EXTRA}") from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if problem := wrong(columns):
                yield "1", RowError(problem)
                return
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from plain_rows(batch.to_pylist(), first=number + 1)
                number += batch.num_rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file that can be read: {_line(error)}") from error


def plain_rows(rows: Iterable[Mapping[str, Any]], *, first: int = 1) -> Rows:
    """Each row with its number from `first`, its values made plain; a RowError where one cannot be."""
    for number, row in enumerate(rows, first):
        try:
            yield str(number), {name: _of_column(name, value) for name, value in row.items()}
        except RowError as error:
            yield str(number), error


def plain(value: Any) -> Any:
    """A value of a typed table as JSON has it.

    Times become ISO texts, a span of time its seconds, decimals and UUIDs texts, bytes the text that they
    are, numpy's scalars and arrays Python's. NaN, by which pandas marks an empty cell, becomes None. In a
    chat, whose messages share one type, fields without a value are left out. Raises RowError for the rest
    (an image, an infinite number).

    >>> plain({"at": date(2026, 1, 31), "n": [1, float("nan")], "of": Decimal("1.50")})
    {'at': '2026-01-31', 'n': [1, None], 'of': '1.50'}
    >>> plain([{"role": "user", "content": "Hi", "name": None}])
    [{'role': 'user', 'content': 'Hi'}]
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise RowError("holds an infinite number, which JSON has not")
        return None if math.isnan(value) else float(value)
    if isinstance(value, Mapping):
        found = {str(name): plain(inner) for name, inner in value.items()}
        if {"role", "content"} <= found.keys():
            return {name: inner for name, inner in found.items() if inner is not None or name == "content"}
        return found
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, date | time):  # a datetime is a date
        return None if value != value else value.isoformat()  # pandas' NaT is not itself
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise RowError(f"holds {len(value):,} bytes that are not UTF-8 text") from None
    if type(value).__module__ == "numpy":
        return plain(value.tolist())
    raise RowError(f"holds a {type(value).__name__}, which JSON has not")


def _of_column(name: str, value: Any) -> Any:
    try:
        return plain(value)
    except RowError as error:
        raise RowError(f"has a column `{name}` that {error}; leave that column out of the table") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
