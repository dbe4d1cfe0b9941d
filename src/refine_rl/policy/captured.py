"""A computation that an accelerator has recorded once and repeats at one launch.

What it reads and writes must stay where it is. The first call computes it as it stands, records it, repeats
the record and holds both results against one another: where they are not the same to the bit, or where
something in it cannot be recorded, it is computed as it stands from then on, and the reason is kept.

A recording that fails leaves three things behind which whatever is computed next would stumble over: memory
that is still put aside for the record (torch.cuda.CUDAGraph ends that only where the recording ends well),
the device's generator, which still waits for the record's end, and a hold on the record's memory. `_record`
gives all three back. What makes a recording fail for no fault of its own is Python's garbage collector: a
record that it takes away while another is being made breaks that one. So it is off meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

Work = Callable[[], tuple[torch.Tensor, ...]]

_STREAMS: dict[torch.device, torch.cuda.Stream] = {}
_LAST: dict[torch.device, tuple[torch.cuda.CUDAGraph, Any]] = {}
"""The last record of a device, and its memory's name: the next one takes it over."""

_ONE = threading.Lock()
"""One record is made at a time: all are made on one stream, with one generator."""


class Captured:
    """A call with `work`, the same each time, gives the tensors that it gives, in memory that the next call
    writes over. `why_not` says why it is not repeated from a record: "" where it is, or where nothing was
    computed yet. (It does not keep `work`, which would keep it: a record would only go when the garbage
    collector comes, and with it the memory that it writes to.)"""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: tuple[torch.Tensor, ...] = ()
        self.why_not = "" if device.type == "cuda" else f"there are no records on {device.type}"

    def __call__(self, work: Work) -> tuple[torch.Tensor, ...]:
        if self._graph is not None:
            self._graph.replay()
            return self._found
        if self.why_not:
            return work()
        with _ONE:
            return self._first(work)

    def _first(self, work: Work) -> tuple[torch.Tensor, ...]:
        current = torch.cuda.current_stream(self._device)
        # A product's working memory belongs to a stream; made while recording, it would go with the record.
        if self._device not in _STREAMS:
            _STREAMS[self._device] = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side = _STREAMS[self._device]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            want = tuple(x.clone() for x in work())
        before = _LAST.get(self._device)
        pool = before[1] if before else torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.stream(side):
                graph, found = _record(work, self._device, pool)
            current.wait_stream(side)
            graph.replay()
        except RuntimeError as error:
            current.wait_stream(side)
            _LAST.pop(self._device, None)
            self.why_not = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return want
        if not all(torch.equal(a, b) for a, b in zip(want, found, strict=True)):
            self.why_not = "its record does not repeat it to the bit"
            return want
        self._graph, self._found = graph, found
        _LAST[self._device] = graph, pool
        return found


def _record(
    work: Work, device: torch.device, pool: Any
) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]:
    """What `work` does on this stream, in the memory `pool`; where that fails, all is as before."""
    graph = torch.cuda.CUDAGraph()
    with _without_collecting(), _generator_of_its_own(device):
        # Other threads may use the device meanwhile.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            found = work()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the one that is raised says more
                _end(graph, device, pool)
            raise
        _end(graph, device, pool)
    return graph, found


def _end(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> None:
    """Ends the recording, well or not; the error of one that failed."""
    try:
        graph.capture_end()
    except RuntimeError:
        index = torch.cuda.current_device() if device.index is None else device.index
        with contextlib.suppress(RuntimeError):  # it was ended, and what followed failed
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        raise


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@contextlib.contextmanager
def _generator_of_its_own(device: torch.device) -> Iterator[None]:
    """Inside, the device's generator has another state. A recording tells it to wait for its end, which one
    that fails never has; nothing that is recorded here draws from it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    state = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        yield
    finally:
        generator.graphsafe_set_state(state)
