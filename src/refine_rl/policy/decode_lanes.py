"""Sampling on a processor with several cores: each works on a part of the rows.

The usual way, all cores on one operation after the other, gains nothing here: an operation takes 5 to 100
microseconds, and to wake a core takes as long. So a lane is a thread that takes some of the rows through all
layers and draws their tokens, by programs that do not need Python's lock (scripted.py); lanes meet once a
token. Keys and values are those of decode.py, of which each lane sees a part; whenever rows leave, they are
dealt out anew. On one core it is the same with one lane.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import torch

from refine_rl.policy.decode_step import step
from refine_rl.policy.drawer import Drawer
from refine_rl.policy.fused import Fused
from refine_rl.policy.scripted import scripted, unoptimised

MOST = 4
"""Lanes at most; further cores are shared out among them."""

ROWS = 8
"""Rows that a lane has at least: with fewer, reading the weights is all that a product does."""

Drawn = tuple[torch.Tensor, torch.Tensor]


class Lanes:
    """Computes and draws the next token of the rows of a `decode.Decoding`; `angles` as of
    `Fused.angles`."""

    def __init__(self, fused: Fused, angles: Sequence[torch.Tensor], state: Any, draw: Drawer) -> None:
        self._fused, self._state, self._draw = fused, state, draw
        self._angles = angles
        program = scripted(step)
        self._step: Callable[..., torch.Tensor] = program or step
        self._threads = torch.get_num_threads()
        # A large vocabulary is most of a token: better read once, by all cores.
        most = min(MOST, self._threads) if program and not draw.tiled else 1
        self._lanes = max(1, min(most, len(state.prompt_of) // ROWS))
        self._share = max(1, self._threads // self._lanes)
        self._pool: ThreadPoolExecutor | None = None
        self._moved = -1

    def __call__(self, token: torch.Tensor, uniform: torch.Tensor) -> Drawn:
        """What each row writes behind `token` by these uniform numbers, and its log-prob, [R] each."""
        state, fused = self._state, self._fused
        positions = state.positions()[0]
        if state.moved != self._moved:
            self._deal_out()
        x, (cos, sin) = fused.words[token], (angle[positions] for angle in self._angles)

        def work(lane: int) -> Drawn:
            part, rows = self._parts[lane]
            layers, end = fused.layers, state.end
            with torch.no_grad(), torch.autocast("cpu", enabled=False), unoptimised():
                last = self._step(x[part], layers, cos[part], sin[part], rows, end, state.whole, fused.early)
                return self._draw.from_uniform(fused.normed(last), uniform[part])

        found = self._each(work)
        state.t += 1
        tokens, logprobs = zip(*found, strict=True)
        return torch.cat(tokens), torch.cat(logprobs)

    def _deal_out(self) -> None:
        R = len(self._state.prompt_of)
        lanes = max(1, min(self._lanes, R // ROWS))
        edges = [R * lane // lanes for lane in range(lanes + 1)]
        self._parts = [
            (slice(a, b), self._state.rows if lanes == 1 else self._state.part(a, b))
            for a, b in pairwise(edges)
        ]
        self._moved = self._state.moved

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """While tokens are computed each lane has its share of the cores, the calling thread's operations
        too: to change that for every token takes longer than a token."""
        torch.set_num_threads(self._share)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads)

    def _each(self, work: Callable[[int], Drawn]) -> list[Drawn]:
        """What every lane finds; the calling thread is the first."""
        lanes = len(self._parts)
        if lanes == 1:
            return [work(0)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                lanes - 1,
                thread_name_prefix="lane",
                initializer=torch.set_num_threads,
                initargs=(self._share,),
            )
        others: list[Future[Drawn]] = [self._pool.submit(work, lane) for lane in range(1, lanes)]
        try:
            first = work(0)
        finally:
            wait(others)  # Ctrl-C too leaves nobody at work
        return [first, *(other.result() for other in others)]
