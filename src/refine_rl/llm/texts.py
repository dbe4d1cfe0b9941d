"""Prompts to LLMs: text files beside the code that uses them, with places like {{task}} to fill in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@cache
def load_text(folder: str | Path, name: str) -> str:
    """The text file `name` in `folder`, without the white space at its end."""
    return (Path(folder) / name).read_text(encoding="utf-8").rstrip()


def fill(template: str, values: Mapping[str, object]) -> str:
    """Puts values into a template in one pass: what a value holds is never looked at again.

    Raises ValueError for a place that has no value.

    >>> fill("Task: {{task}}", {"task": "Say {{task}}."})
    'Task: Say {{task}}.'
    """
    if unknown := set(_PLACE.findall(template)) - set(values):
        raise ValueError(f"the text has the places {sorted(unknown)}, which nothing fills")
    return _PLACE.sub(lambda place: str(values[place[1]]), template)
