"""Prompts from a Python file: its function `prompts(split, count, seed)` is called once a split."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from refine_rl.errors import UserError
from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.columns import AS_THEY_ARE, Columns
from refine_rl.prompts.files import check_rows
from refine_rl.prompts.rows import RowSource
from refine_rl.rewards.functions.world import foreign_import
from refine_rl.types import Split

_FAILURES = (Exception, SystemExit, KeyboardInterrupt)  # a person's Ctrl-C is neither: see cli/interrupt.py


def generate_prompts(
    path: Path, counts: Mapping[Split, int], seed: int, columns: Columns = AS_THEY_ARE
) -> list[Candidate]:
    """Up to `counts` candidates a split, checked like the rows of a file.

    Raises UserError where the file or its function is missing, fails, or gives broken rows.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `prompts.source` is relative to the task's folder")
    try:
        function = getattr(_load(path), "prompts", None)
    except _FAILURES as error:
        raise UserError(_failure(path, error)) from error
    if not callable(function):
        raise UserError(f"{path}: has no function prompts(split, count, seed)")
    rows = _rows(path, function, counts, seed)
    return check_rows(RowSource(name=str(path), origin=f"file:{path.name}", rows=rows), columns)


def _rows(path: Path, function: Any, counts: Mapping[Split, int], seed: int) -> Iterator[tuple[str, object]]:
    for split, count in counts.items():
        if count == 0:
            continue
        try:
            with foreign_import():
                rows = function(split, count, seed)
        except _FAILURES as error:
            raise UserError(_failure(path, error)) from error
        if not isinstance(rows, list):
            raise UserError(f"{path}: prompts({split!r}, ...) must return a list, not {type(rows).__name__}")
        for number, row in enumerate(rows[:count]):
            yield f"{split}[{number}]", {**row, "split": split} if isinstance(row, dict) else row


def _load(path: Path) -> ModuleType:
    name = f"refine_prompts_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        with foreign_import():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _failure(path: Path, error: BaseException) -> str:
    """The error with the line of the user's file that led to it."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    lines = [line for file, line in frames if Path(file).resolve() == path.resolve()]
    line = f":{lines[-1]}" if lines else ""
    if isinstance(error, SystemExit):
        return f"{path}{line}: it called sys.exit({error.code!r}); return the prompts, or raise an error"
    return f"{path}{line}: {type(error).__name__}: {error}"
