"""Micro-batches side by side on a processor with several cores.

A lane is a thread that works one micro-batch after the other, on its share of the cores, and adds up a
gradient of its own; the lanes' gradients are added in their order, so that the sum is the same to the bit
in every run with as many lanes. The usual way, all cores on one product after the other, waits for the
slowest core at the end of each of thousands of small operations; where another program takes a core now
and then, most of a step is such waiting. Python's lock does not matter much: torch lets it go
while it computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from refine_rl.policy.protocol import Speaker

MOST = 4
"""Lanes at most; further cores are shared out among them."""

GRADIENT_BYTES = 1 << 28
"""Every lane holds a gradient: together no more than this, or the micro-batches go one after the other."""

T = TypeVar("T")


def lanes_of(speaker: Speaker) -> int:
    """How many micro-batches of this model are worked at once."""
    if speaker.device.type != "cpu" or not speaker.shares_prompts:
        return 1
    size = sum(p.numel() * p.element_size() for p in speaker.trainable().values())
    lanes = min(MOST, torch.get_num_threads())
    return lanes if lanes * size <= GRADIENT_BYTES else 1


def in_lanes(work: Callable[[int, int], T], jobs: int, lanes: int) -> list[T]:
    """What work(job, lane) gives for each of the jobs, in order; lane k takes jobs k, k + lanes, ...

    The calling thread is lane 0. Where a lane fails, the others end the job that they are at, and the
    error of the lowest lane is raised.
    """
    lanes = max(1, min(lanes, jobs))
    if lanes == 1:
        return [work(job, 0) for job in range(jobs)]
    found: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()

    def run(lane: int) -> None:
        torch.set_num_threads(max(1, threads // lanes))  # of the calling thread
        try:
            with torch.set_grad_enabled(grad):
                for job in range(lane, jobs, lanes):
                    if errors:
                        return
                    found[job] = work(job, lane)
        except BaseException as error:  # it is raised below
            errors[lane] = error

    others = [threading.Thread(target=run, args=(lane,), name=f"lane {lane}") for lane in range(1, lanes)]
    for thread in others:
        thread.start()
    try:
        run(0)
        for thread in others:
            thread.join()
    except BaseException as error:  # Ctrl-C while it waits
        errors[-1] = error
        for thread in others:
            thread.join()
    finally:
        torch.set_num_threads(threads)
    if errors:
        raise errors[min(errors)]
    return [found[job] for job in range(jobs)]


class Gradients:
    """The sum of many losses' gradients, kept by lane. In one lane it is the usual backward pass, which the
    hooks of a wrapper around the model see."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lanes: int) -> None:
        self._parameters = parameters
        self._alone = lanes == 1
        self._sums: list[list[torch.Tensor | None]] = [[None] * len(parameters) for _ in range(lanes)]

    def add(self, lane: int, loss: torch.Tensor) -> None:
        """A loss's gradient. It is called from the lane's thread."""
        if self._alone:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        own = self._sums[lane]
        for place, gradient in enumerate(torch.autograd.grad(loss, self._parameters, allow_unused=True)):
            before = own[place]
            if gradient is not None:
                own[place] = gradient if before is None else before.add_(gradient)

    def hand_over(self) -> None:
        """Into the parameters' `grad`."""
        for place, parameter in enumerate([] if self._alone else self._parameters):
            parts = [s[place] for s in self._sums if s[place] is not None]
            parameter.grad = None
            for part in parts:
                assert part is not None
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
        self._sums.clear()
