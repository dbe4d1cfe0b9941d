"""What the user gave from Python, and so stands in no file: "python:NAME" in the settings names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from refine_rl.errors import SettingsError

PYTHON = "python"
"""Where a file or a module would stand in a name."""

_given: ContextVar[Mapping[str, Any]] = ContextVar("refine_given", default=MappingProxyType({}))


@contextmanager
def given(named: Mapping[str, Any]) -> Iterator[None]:
    """Inside, "python:NAME" is what `named` has by that name.

    >>> with given({"Guess": int}):
    ...     from_python("Guess")
    <class 'int'>
    """
    token = _given.set(named)
    try:
        yield
    finally:
        _given.reset(token)


def from_python(name: str, kind: str = "class") -> Any:
    """What was given by that name; raises SettingsError where nothing was."""
    try:
        return _given.get()[name]
    except KeyError:
        raise SettingsError(
            f"the {kind} `{name}` was given from Python and stands in no file: work on this run from Python, "
            f"and give it again"
        ) from None
