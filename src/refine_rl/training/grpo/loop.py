"""The training loop: collect groups, learn from them, keep what came of it.

It knows neither endpoints nor files, nor how groups are made: `collect` takes a step from the record where an
earlier process sampled it (or samples it, and perhaps the next one ahead), and `learn` moves the weights. So
a step that was recorded before a stop is learned from again, to the same bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from refine_rl.errors import GuardStop, Interrupted, MachineError
from refine_rl.progress import Pause, never
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.collect import Collector
from refine_rl.training.grpo.keep import Keeper
from refine_rl.training.grpo.learn import Learn, step_metrics


def train(
    collect: Collector,
    learn: Learn,
    keep: Keeper,
    *,
    cost: Callable[[], float | None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    pause: Pause = never,
) -> Position:
    """Trains from `keep.start` to `keep.steps`, and says how far it came. `clock` gives the seconds of
    training so far; `cost` what scoring has cost in dollars since it was last asked (None: not known).
    Whatever stops it early, a checkpoint of the last whole step is there when the error leaves here."""
    position = keep.start
    try:
        if position.kept < position.step:
            position = keep(position, last=position.step == keep.steps)
        for step in range(position.step + 1, keep.steps + 1):
            pause()
            if keep.over(step):
                return keep(position, last=True)
            began = time.perf_counter()
            collected = collect(step)
            update = learn(collected.groups, step, seen=collected.seen)
            spent = time.perf_counter() - began
            seconds = {**collected.seconds, "train": spent - sum(collected.seconds.values())}
            metrics = step_metrics(step, collected.groups, update, seconds, cost(), collected.told)
            position = replace(position, step=step, seconds=clock())
            keep.step(metrics)
            position = keep(position, last=step == keep.steps)
            keep.require_hours(position)
    except (GuardStop, Interrupted, MachineError):
        keep.broken_off(position)
        raise
    return position
