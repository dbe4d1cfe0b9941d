"""A file of the user's, and what is called by a name in it: "FILE.py:NAME", or "module:NAME"."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from refine_rl.errors import SettingsError
from refine_rl.foreign.failures import describe_failure
from refine_rl.foreign.given import PYTHON, from_python
from refine_rl.foreign.process import foreign_import

_RAISED = (Exception, SystemExit, GeneratorExit)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error sentence: the nearest of `names`, or all of them where none is near.

    >>> nearest("word", ["words", "chars"]), nearest("x", ["words", "chars"]), nearest("x", [])
    ('; did you mean `words`?', '; there are `words`, `chars`', '')
    """
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return "; there are " + ", ".join(f"`{n}`" for n in known) if known else ""


def load_named(
    spec: str,
    folder: Path,
    files: dict[Path, ModuleType],
    *,
    kind: str = "function",
    fits: Callable[[Any], bool] = callable,
) -> Any:
    """What "FILE.py:NAME" (relative to `folder`) or "module:NAME" names: something of that `kind`, as `fits`
    tells; "python:NAME" is what was given from Python.

    `files` holds the files that were loaded before, so that what stands in one file shares it. A file may
    import its neighbours at its top. Raises SettingsError naming what was not found, or what it raised.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise SettingsError(f'`{spec}` names no {kind}: write "FILE.py:NAME" or "module:NAME"')
    if place == PYTHON:
        return from_python(name, kind)
    if place.endswith(".py") or "/" in place:
        path = (folder / place).resolve()
        if path not in files:
            files[path] = _load_file(path)
        module = files[path]
    else:
        try:
            with foreign_import():
                module = importlib.import_module(place)
        except _RAISED as error:
            raise SettingsError(f"`{place}` cannot be imported: {describe_failure(error)}") from error
    found = getattr(module, name, None)
    if not fits(found):
        known = [
            n
            for n, v in vars(module).items()
            if fits(v) and getattr(v, "__module__", None) == module.__name__ and not n.startswith("_")
        ]
        raise SettingsError(f"{place} has no {kind} `{name}`{nearest(name, known)}")
    return found


class _FreshLoader(SourceFileLoader):
    """Reads the source each time: a cached file of the same second and size would be stale."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise SettingsError(f"there is no file {path}{nearest(path.name, beside)}")
    name = f"refine_task_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    loader = _FreshLoader(name, str(path))
    module_spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert module_spec is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        with foreign_import():
            loader.exec_module(module)
    except _RAISED as error:
        raise SettingsError(f"{path} cannot be loaded: {describe_failure(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
