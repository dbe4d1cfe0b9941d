"""A computation that an accelerator has recorded once and repeats at one launch.

What it reads and writes must stay where it is. The first call computes it as it stands, records it, repeats
the record and holds both results against one another: where they are not the same to the bit, or where
something in it cannot be recorded, it is computed as it stands from then on, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_STREAMS: dict[torch.device, torch.cuda.Stream] = {}
_LAST: dict[torch.device, torch.cuda.CUDAGraph] = {}
"""The last record of a device: the next one takes over its memory."""


class Captured:
    """`work` gives tensors; so does a call, in memory that the next call writes over. `why_not` says why it
    is not repeated from a record: "" where it is, or where nothing was computed yet."""

    def __init__(self, work: Callable[[], tuple[torch.Tensor, ...]], device: torch.device) -> None:
        self._work, self._device = work, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: tuple[torch.Tensor, ...] = ()
        self.why_not = "" if device.type == "cuda" else f"there are no records on {device.type}"

    def __call__(self) -> tuple[torch.Tensor, ...]:
        if self._graph is not None:
            self._graph.replay()
            return self._found
        if self.why_not:
            return self._work()
        return self._first()

    def _first(self) -> tuple[torch.Tensor, ...]:
        current = torch.cuda.current_stream(self._device)
        # A product's working memory belongs to a stream; made while recording, it would go with the record.
        if self._device not in _STREAMS:
            _STREAMS[self._device] = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side = _STREAMS[self._device]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            want = tuple(x.clone() for x in self._work())
        try:
            graph, found = self._record(side)
            current.wait_stream(side)
            graph.replay()
        except RuntimeError as error:
            current.wait_stream(side)
            self.why_not = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return want
        if not all(torch.equal(a, b) for a, b in zip(want, found, strict=True)):
            self.why_not = "its record does not repeat it to the bit"
            return want
        _LAST[self._device] = self._graph = graph
        self._found = found
        return found

    def _record(self, side: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]:
        graph = torch.cuda.CUDAGraph()
        last = _LAST.get(self._device)
        with torch.cuda.stream(side):
            # Other threads may use the device meanwhile.
            graph.capture_begin(pool=last.pool() if last else None, capture_error_mode="thread_local")
            try:
                found = self._work()
            finally:
                graph.capture_end()
        return graph, found
