"""Under which licence source stands, by what its package says of itself."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_LONGEST = 60  # signs of a licence's name; longer is its text


@cache
def licence_of_package(package: str) -> str:
    """The licence of the distribution that brings an importable package, by its metadata; "" where it does
    not say."""
    for distribution in _distributions().get(package, ()):
        if found := licence_in(metadata.metadata(distribution)):
            return found
    return ""


def licence_in(fields: Any) -> str:
    """The licence in a distribution's metadata: its expression, its classifiers, or its short name.

    >>> from email.message import Message
    >>> fields = Message(); fields["Classifier"] = "License :: OSI Approved :: MIT License"
    >>> licence_in(fields)
    'MIT License'
    """
    if expression := fields.get("License-Expression"):
        return str(expression)
    classifiers = [str(text) for text in fields.get_all("Classifier") or ()]
    named = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License :: ")]
    if named := [name for name in named if name != "OSI Approved"]:
        return " OR ".join(sorted(set(named)))
    return _short(fields.get("License"))


def licence_of_tree(folder: Path) -> str:
    """The licence in the pyproject.toml of a folder, or of one around it up to the repository's; "" where
    none says."""
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if file.is_file():
            return _in_pyproject(file)
        if (place / ".git").exists():
            break
    return ""


def _in_pyproject(file: Path) -> str:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return ""
    licence = project.get("license", "") if isinstance(project, dict) else ""
    return _short(licence.get("text") if isinstance(licence, dict) else licence)


def _short(text: Any) -> str:
    line = text.strip() if isinstance(text, str) else ""
    return line if len(line) <= _LONGEST and "\n" not in line and line != "UNKNOWN" else ""


@cache
def _distributions() -> dict[str, list[str]]:
    """Importable package -> the distributions that bring it."""
    return {package: list(names) for package, names in metadata.packages_distributions().items()}
