"""Who shows the progress where nobody was named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from refine_rl.progress import Observer
from refine_rl.run import RunFolder


@contextlib.contextmanager
def showing(folder: RunFolder | None, observer: Observer | None) -> Iterator[Observer]:
    """The observer that was given, or what shows the work on a run, or on something else, where this process
    is: a terminal's last line, lines of a file, a block in a notebook."""
    if observer is not None:
        yield observer
        return
    from refine_rl.report.showing import showing as here

    with here(folder) as shown:
        yield shown
