"""A run that a launcher (torchrun, accelerate launch) started as several processes."""

from __future__ import annotations

from refine_rl.engines.processes.place import launched


def take_part() -> None:
    """In the first process, waits for the others and returns. Every other one stays in here until the first
    ends, and ends with it: it sees neither the task nor the run's folder. Where there is one process, it is
    nothing."""
    place = launched()
    if place is None:
        return
    if place.rank == 0:
        from refine_rl.engines.processes.crew import gather  # late: torch

        gather(place)
        return
    from refine_rl.engines.processes.serve import serve

    serve(place)
    raise SystemExit(0)
