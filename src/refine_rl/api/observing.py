"""Who shows the progress where nobody was named."""

from __future__ import annotations

from refine_rl.progress import Observer


def observer_of(observer: Observer | None) -> Observer:
    """The observer that was given, or the screen."""
    if observer is not None:
        return observer
    from refine_rl.report.screen import Screen

    return Screen()
