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
    """Whatever ends the run early stands in its events; after a guard there is a report."""
    try:
        yield
    except GuardStop as stop:
        journal.event("guard", stop.guard, f"{stop.what} {stop.advice}")
        folder.save_report(render(folder))
        raise
    except DiskError:
        raise  # there is no room to say so
    except MachineError as error:
        journal.event("failure", "endpoint", str(error))
        raise
    except Interrupted:
        journal.event("interrupted", "interrupted", "Stopped by Ctrl-C; the state was saved.")
        raise
