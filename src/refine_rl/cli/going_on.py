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

_HALTED = ("broken off", "interrupted", "failed")


def told_of_earlier(folder: RunFolder, name: str, program: str) -> None:
    """Says, of a run that got another name because `name` was taken, that the newest one before it was left
    unfinished, and how to go on with that: who gives a command again after a kill may mean this."""
    from refine_rl.report.screen import say, talk
    from refine_rl.run import RunFolder
    from refine_rl.run.files import names
    from refine_rl.run.glance import find_runs

    before = None
    for other in names(name):
        if other == folder.name:
            break
        before = folder.path.with_name(other)
    if before is None or not before.is_dir():
        return
    halted = [g for g in find_runs(before) if g.path == before and g.state in _HALTED]
    for run in halted:
        of = f" of {run.planned}" if run.planned else ""
        say(
            talk(),
            f"{before} is not finished ({run.state}, step {run.steps}{of}), and this is a new run. "
            f"To go on with that one: {RunFolder(before).config.resume(program=program)}",
        )


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
