"""Where Python source lies: a folder, a file, an installed package, the standard library; not imported."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.prompts.harvest.licences import licence_of_package, licence_of_tree

STDLIB = "stdlib"
STDLIB_LICENCE = "PSF-2.0"
_NOT_STDLIB = {"site-packages", "dist-packages", "__phello__"}
_NO_SOURCE = {"__pycache__", "node_modules"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file of Python source. `shown` is its path as records name it (`json/decoder.py`), `module` its
    dotted name, `package` the first part of that."""

    path: Path
    shown: str
    module: str
    package: str
    licence: str


def find_files(name: str) -> list[SourceFile]:
    """The source files of a folder, a file, an installed package (or a part of it: `email.mime`), a
    distribution by its own name (`scikit-learn`), or "stdlib", sorted by module.

    Raises UserError where there is nothing of that name, or nothing in Python.
    """
    if name == STDLIB:
        return _stdlib()
    path = Path(name).expanduser()
    if path.exists() and (path.suffix == ".py" or os.sep in name or name in (".", "..")):
        found = _tree(path)
    elif name.replace(".", "").replace("_", "").isalnum() and (roots := _package(name)):
        found = _installed(name, roots)
    elif imports := _imports_of(name):
        found = [file for each in imports for file in _installed(each, _package(each))]
    elif path.exists():
        found = _tree(path)
    else:
        raise UserError(_unknown(name))
    if not found:
        raise UserError(f"{name}: there is no Python source in it")
    return found


def _stdlib() -> list[SourceFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return _sorted(_files(root, root, licence=STDLIB_LICENCE, without=_NOT_STDLIB))


def _tree(path: Path) -> list[SourceFile]:
    """A file, or all below a folder; modules are named from the outermost folder that is a package."""
    path = path.absolute()
    top = path if path.is_dir() else path.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    licence = licence_of_tree(path if path.is_dir() else path.parent)
    if path.is_file():
        return [_file(path, path.relative_to(top).parts, path.name, licence)]
    found = []
    for file in _walk(path, set()):
        outer = file.parent
        while outer != top and (outer / "__init__.py").is_file():
            outer = outer.parent
        base = path.parent if top != path else path
        found.append(_file(file, file.relative_to(outer).parts, file.relative_to(base).as_posix(), licence))
    return _sorted(found)


def _package(name: str) -> list[Path]:
    """The folders (several of a namespace) or the one file of an importable name; [] where there is none.

    Only the first part is looked up by Python's finders, which need not import anything for it; the others
    are folders and files in it.
    """
    first, *rest = name.split(".")
    try:
        spec = PathFinder.find_spec(first) or find_spec(first)
    except (ImportError, ValueError):  # of a finder of somebody's own; a module without a spec
        spec = None
    if spec is None:
        return []
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not places:
        found = [Path(spec.origin)] if spec.has_location and spec.origin else []
        return [] if rest else [place for place in found if place.suffix == ".py"]
    for part in rest:
        inner = [place / part for place in places if (place / part).is_dir()]
        places = inner or [file for place in places if (file := place / f"{part}.py").is_file()]
    return [place for place in places if place.exists()]


def _installed(name: str, roots: list[Path]) -> list[SourceFile]:
    """The files of an importable name; each root lies as deep as the name has parts."""
    package = name.partition(".")[0]
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    found: list[SourceFile] = []
    for root in roots:
        outer = root.parents[name.count(".")]
        licence = STDLIB_LICENCE if outer == stdlib else licence_of_package(package)
        if root.is_file():
            found.append(
                _file(root, root.relative_to(outer).parts, root.relative_to(outer).as_posix(), licence)
            )
        else:
            found += _files(root, outer, licence=licence, without=set())
    return _sorted(found)


def _imports_of(distribution: str) -> list[str]:
    """What a distribution brings to import; [] where none of that name is installed."""
    try:
        files = metadata.distribution(distribution).files or []
    except (metadata.PackageNotFoundError, ValueError):
        return []
    tops = {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}
    return sorted(top for top in tops if top.isidentifier() and _package(top))


def _files(root: Path, outer: Path, *, licence: str, without: set[str]) -> Iterator[SourceFile]:
    for path in _walk(root, without):
        inside = path.relative_to(outer)
        yield _file(path, inside.parts, inside.as_posix(), licence)


def _walk(root: Path, without: set[str]) -> Iterator[Path]:
    """All .py files below a folder, but for those of virtual environments, caches and hidden folders."""
    for place, folders, names in os.walk(root):
        folder = Path(place)
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".")
            and each not in _NO_SOURCE | without
            and not (folder / each / "pyvenv.cfg").is_file()
        ]
        yield from (folder / name for name in names if name.endswith(".py") and (folder / name).is_file())


def _file(path: Path, parts: tuple[str, ...], shown: str, licence: str) -> SourceFile:
    names = [*parts[:-1], parts[-1].removesuffix(".py")]
    if len(names) > 1 and names[-1] == "__init__":
        names.pop()
    return SourceFile(path=path, shown=shown, module=".".join(names), package=names[0], licence=licence)


def _sorted(files: Iterator[SourceFile] | list[SourceFile]) -> list[SourceFile]:
    return sorted(files, key=lambda file: (file.module, file.shown))


def _unknown(name: str) -> str:
    first = name.partition(".")[0]
    if first in sys.builtin_module_names or _is_extension(first):
        return f"{name}: it is not written in Python, so there is no source to read"
    installed = {STDLIB, *sys.stdlib_module_names, *(d.name for d in metadata.distributions() if d.name)}
    near = get_close_matches(name, sorted(installed), n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name}: there is no such file or folder, and no such package is installed here{hint}"


def _is_extension(name: str) -> bool:
    try:
        spec = PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and not spec.submodule_search_locations and bool(spec.origin)
