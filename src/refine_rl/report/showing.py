"""What a person sees while something long goes on: in a terminal, in a file of lines, in a notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from refine_rl.errors import quoted
from refine_rl.progress import Observer
from refine_rl.report.notebook import Block, in_notebook
from refine_rl.report.screen import Screen
from refine_rl.run import RunFolder


@contextlib.contextmanager
def showing(run: RunFolder | None = None) -> Iterator[Observer]:
    """What shows a run, or other long work, where this process is."""
    with Block(run) if in_notebook() else Screen(run) as shown:
        if run is not None:
            shown.head(places(run))
        yield shown


def places(run: RunFolder, program: str = "refine") -> str:
    """Where a run that begins or goes on can be looked at, in lines."""
    return (
        f"Run: {run.path}\n"
        f"Report: {run.report} (renewed while it runs)\n"
        f"Live: {program} watch {quoted(run.path)}"
    )
