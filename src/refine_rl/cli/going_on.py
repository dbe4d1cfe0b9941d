"""How a run that stopped is taken up again: commands that work as they stand, with what the advice says in
their flags."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from refine_rl.report.screen import shown

if TYPE_CHECKING:
    from refine_rl.errors import GuardStop
    from refine_rl.pipeline.ways_on import Way
    from refine_rl.run import RunFolder


def commands(stop: GuardStop, folder: RunFolder, go_on: str) -> str:
    """The ways on after a guard, a line each; `go_on` is the command without flags."""
    from refine_rl.pipeline.ways_on import ways

    return "\n".join(
        f"{way.when}: {go_on}{' ' * bool(flags(way))}{shown(flags(way))}" for way in ways(stop, folder)
    )


def flags(way: Way) -> str:
    """What stands behind `refine train --resume RUN`."""
    found = [] if way.step is None else [f"--from-step {way.step}"]
    for key, value in way.change.items():
        written = f"{value:g}" if isinstance(value, float) else str(value)
        found.append(f"--set {shlex.quote(f'{key}={written}')}")
    return " ".join(found)
