"""A Python file of the task's own that makes rows: `prompts(split, count, seed)` or `pairs(count, seed)`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from refine_rl.errors import UserError
from refine_rl.foreign.process import foreign_import

_FAILURES = (Exception, SystemExit, KeyboardInterrupt)  # a person's Ctrl-C is neither: see cli/interrupt.py


def own_function(path: Path, name: str, form: str, *, key: str) -> Callable[..., list[Any]]:
    """The file's function `name`, which is called as `form` says, "(count, seed)". What it raises is a
    UserError with the line of the file, and so is an answer that is no list. `key` is the setting that names
    the file. Raises UserError where the file or the function is missing, or the file fails."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `{key}` is relative to the task's folder")
    try:
        function = getattr(_load(path), name, None)
    except _FAILURES as error:
        raise UserError(_failure(path, name, error)) from error
    if not callable(function):
        raise UserError(f"{path}: has no function {name}{form}")

    def call(*arguments: Any) -> list[Any]:
        try:
            with foreign_import():
                rows = function(*arguments)
        except _FAILURES as error:
            raise UserError(_failure(path, name, error)) from error
        if not isinstance(rows, list):
            called = f"{name}({arguments[0]!r}, ...)"
            raise UserError(f"{path}: {called} must return a list, not {type(rows).__name__}")
        return rows

    return call


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


def _failure(path: Path, name: str, error: BaseException) -> str:
    """The error of the function `name`, with the line of the user's file that led to it."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    lines = [line for file, line in frames if Path(file).resolve() == path.resolve()]
    line = f":{lines[-1]}" if lines else ""
    if isinstance(error, SystemExit):
        return f"{path}{line}: it called sys.exit({error.code!r}); return the {name}, or raise an error"
    return f"{path}{line}: {type(error).__name__}: {error}"
