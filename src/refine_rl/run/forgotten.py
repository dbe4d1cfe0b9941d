"""Which events tell of steps that were gone back on since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GONE_BACK = "gone_back"
"""The name of the note that a drift led training back, to the note's step."""

REWOUND = "rewound"
"""The kind of the event that a run went back, to the event's step."""


def goes_back_on(step: int | None, back: int) -> bool:
    """Whether a run that goes `back` to a step forgets what was told of another one. Back at the start
    everything is done anew, what came before the first step as well.

    >>> goes_back_on(4, back=2), goes_back_on(2, back=2), goes_back_on(0, back=0), goes_back_on(None, back=0)
    (True, False, True, False)
    """
    return step is not None and (back == 0 or step > back)


def marked(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All events, each with whether it is `forgotten`: it tells of a step that was gone back on since.

    >>> told = [{"kind": "warning", "step": s} for s in (2, 4, None)]
    >>> again = [{"kind": REWOUND, "step": 2}, {"kind": "warning", "step": 4}]
    >>> [e["forgotten"] for e in marked([*told, *again])]
    [False, True, False, False, False]
    """
    found: list[dict[str, Any]] = []
    for event in events:
        if event["kind"] == REWOUND:
            for e in found:
                e["forgotten"] |= goes_back_on(e["step"], event["step"])
        found.append({**event, "forgotten": False})
    return found


def back_note(events: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The note that a drift led training back, to its step, where that still stands."""
    return next((e for e in marked(events) if e["name"] == GONE_BACK and not e["forgotten"]), None)
