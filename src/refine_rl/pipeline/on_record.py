"""What ends a run early, on record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from refine_rl.errors import DiskError, GuardStop, Interrupted, MachineError
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal


@contextlib.contextmanager
def on_record(folder: RunFolder, journal: Journal) -> Iterator[None]:
    """Whatever ends the run early stands in its events, and in the report."""
    try:
        yield
    except GuardStop as stop:
        journal.event("guard", stop.guard, f"{stop.what} {stop.advice}")
        _report(folder, journal)
        raise
    except DiskError:
        raise  # there is no room to say so
    except MachineError as error:
        journal.event("failure", "endpoint", str(error))
        _report(folder, journal)
        raise
    except Interrupted:
        journal.event("interrupted", "interrupted", "Stopped by Ctrl-C; the state was saved.")
        if folder.metrics.exists():  # else there is nothing yet to look at, and somebody waits
            _report(folder, journal)
        raise


def _report(folder: RunFolder, journal: Journal) -> None:
    """The report as it stands. What stopped the run is the news, not where this fails."""
    try:
        folder.save_report(render(folder))
    except Exception as error:
        journal.warning("report", f"The report could not be made: {type(error).__name__}: {error}")
