"""A run shown in experiment trackers while it goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.run.trackers.build import tracking_of


@contextlib.contextmanager
def tracked(folder: RunFolder, journal: Journal, *, part_of: str = "") -> Iterator[None]:
    """Inside, the trackers that the settings name hear of the run; afterwards they get the rest, and how it
    ended. They are not waited for where the person wants to leave at once."""
    tracking = tracking_of(folder, folder.settings(), journal, part_of=part_of)
    if tracking is None:
        yield
        return
    journal.listen(tracking)
    try:
        yield
    except Exception:
        tracking.close()
        raise
    tracking.close()
