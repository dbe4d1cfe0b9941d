"""What a tracker is, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from refine_rl.run.state import State

Cells = Mapping[str, Any]
"""A line of a table: its columns' names with text, a number, or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a run is: its name and project there, the name of the run that it is a part of (""), its kind
    ("grpo" or "sft"), its folder, and its settings with the versions of packages."""

    project: str
    name: str
    group: str
    kind: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def flat(self) -> dict[str, str]:
        """The settings as text, by dotted keys."""
        return {key: str(value) for key, value in _flat(self.config)}


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((before + key, value))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """All that is shown of a step (0: before training): numbers by name, answers, and warnings. None of it
    comes later."""

    step: int
    values: Mapping[str, float]
    rollouts: Sequence[Cells] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a run, or a process of it, ended: in which state, in words, behind which step; the numbers and the
    verdict of the comparison; tables by name ("held_out", "events"); and the page, where there is one."""

    state: State
    text: str
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
    tables: Mapping[str, Sequence[Cells]] = field(default_factory=dict)
    page: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """Where a tracker goes on: the run's id there, the last step that it has of it (-1: none; None: it does
    not know), and what a person should read ("")."""

    id: str
    has: int | None
    say: str = ""


class Tracker(Protocol):
    """Shows one run. Everything is called from one thread, which is not the run's; whatever is raised is told
    to the person and tried again later."""

    def open(self, about: About, known: str) -> Opened:
        """Begins a run there, or goes on with the one whose id is `known`."""

    def row(self, row: Row) -> None:
        """Shows a step. It is there, or on its way in another process, when this returns."""

    def close(self, end: End) -> None:
        """Shows how it ended. A run that was not finished may be opened again."""

    def leave(self) -> None:
        """Lets go of the run as it stands, after a failure; another one opens it again."""
