"""How a run stands, worked out in one place for all who say it: the list of runs, the page, who watches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from refine_rl.run.lock import Hold

State = Literal[
    "not begun",
    "running",
    "finished",
    "stopped",
    "interrupted",
    "failed",
    "broken off",
    "not heard of",
]
"""Stopped is by a guard, interrupted by Ctrl-C, failed by an endpoint or the machine, broken off without a
word (killed). Not heard of is one whose process cannot be seen, and which has been silent for long."""

Event = Mapping[str, Any]
_GO_ON = ("started", "resumed", "rewound")
_ENDS: Mapping[str, State] = {
    "finished": "finished",
    "guard": "stopped",
    "interrupted": "interrupted",
    "failure": "failed",
}
_PATIENCE = 120.0  # seconds without a line, at least, until a run that cannot be seen counts as silent


def turn_of(events: Sequence[Event]) -> Event | None:
    """The newest event with which a run went on or ended; None where there is none."""
    return next((e for e in reversed(events) if e.get("kind") in (*_GO_ON, *_ENDS)), None)


def end_of(events: Sequence[Event]) -> State | None:
    """How a run ended, by its events alone; None where it goes on, or ended without a word.

    >>> end_of([{"kind": "started"}, {"kind": "guard"}]), end_of([{"kind": "finished"}, {"kind": "rewound"}])
    ('stopped', None)
    """
    turn = turn_of(events)
    return None if turn is None else _ENDS.get(turn["kind"])


def state_of(events: Sequence[Event], hold: Hold | None, *, silent: float, patience: float) -> State:
    """What the events on record, who holds the lock, and for how many seconds nothing was written say
    together.

    An event that ends a run stands until a process has taken the run up again; a finished one stays so,
    whatever is done in its folder. Where the process cannot be seen (on another machine, in another
    container), only the silence can be told, once it lasts for longer than `patience` seconds.
    """
    end = end_of(events)
    if end is not None and (end == "finished" or not held_again(events, hold)):
        return end
    alive = hold.alive if hold is not None else False
    if alive or (alive is None and silent <= patience):
        return "running"
    if alive is None:
        return "not heard of"
    return "not begun" if turn_of(events) is None else "broken off"


def held_again(events: Sequence[Event], hold: Hold | None) -> bool:
    """Whether a process that lives has taken the run after its newest event of those that count."""
    turn = turn_of(events)
    if turn is None or hold is None or not hold.alive:
        return False
    try:
        said = datetime.fromisoformat(turn["time"]).timestamp()
    except (KeyError, TypeError, ValueError):  # a damaged line
        return False
    return hold.since > said + 1  # an event's time is cut to whole seconds


def patience(steps: Iterable[float]) -> float:
    """Seconds of silence that say nothing yet, of a run whose newest steps took so many.

    >>> patience([]), patience([1.0, 60.0])
    (120.0, 300.0)
    """
    return max(_PATIENCE, 5 * max(steps, default=0.0))
