"""Which events still say something of the run as it is, after it went back to an earlier step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refine_rl.run.forgotten import REWOUND, goes_back_on

Json = Mapping[str, Any]


def standing(events: Sequence[Json], kind: str) -> list[Json]:
    """The events of a kind that carry a step, without those of steps that were gone back on and, where a step
    came again, with the newest of it.

    >>> looks = [{"kind": "best", "step": s, "text": t} for s, t in ((0, "a"), (20, "b"), (40, "c"))]
    >>> back = {"kind": REWOUND, "step": 20, "text": ""}
    >>> [e["text"] for e in standing([*looks, back, {"kind": "best", "step": 30, "text": "d"}], "best")]
    ['a', 'b', 'd']
    """
    kept: list[Json] = []
    for event in events:
        step = event["step"]
        if event["kind"] == REWOUND:
            kept = [e for e in kept if not goes_back_on(e["step"], step)]
        elif event["kind"] == kind and step is not None:
            kept = [*(e for e in kept if e["step"] < step), event]
    return kept
