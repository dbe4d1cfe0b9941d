"""The loop of supervised fine-tuning: learn from the next rows, look, keep.

It knows neither files nor where rows come from. Which rows a step takes is a function of the seed and the
step, and dropout of seed, step and micro-batch: so ten steps are five and five, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from refine_rl.errors import GuardStop, Interrupted, MachineError
from refine_rl.progress import Pause, never
from refine_rl.training.checkpoint import Position
from refine_rl.training.sft.keep import Keeper
from refine_rl.training.sft.learn import Learn


def train(
    learn: Learn, keep: Keeper, *, clock: Callable[[], float] = time.perf_counter, pause: Pause = never
) -> Position:
    """Trains from `keep.start` to `keep.steps`, or until that is enough, and says how far it came. `clock`
    gives the seconds of training so far. Whatever stops it early, a checkpoint of the last whole step is
    there when the error leaves here."""
    position = keep.start
    try:
        for step in range(position.step + 1, keep.steps + 1):
            pause()
            if keep.over(position):
                break
            began = time.perf_counter()
            learned = learn(step)
            position = replace(position, step=step, kept=step, seconds=clock())
            spent = time.perf_counter() - began
            loss = keep.look(step)
            metrics = learn.metrics(step, learned, loss, spent, time.perf_counter() - began)
            position = keep(position, metrics)
            keep.require_hours(position)
    except (GuardStop, Interrupted, MachineError):
        keep.broken_off(position)
        raise
    return position
