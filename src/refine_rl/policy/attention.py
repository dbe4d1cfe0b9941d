"""Attention of many short rows that share a prefix, exact, in tiles that fit the processor's cache.

A row's token looks at the whole prefix, which stands once, and causally at its own row. Scores are made a
tile at a time, and made again in the backward pass: nothing of the size tokens x tokens is ever kept.

With S the scores, P = softmax(S), O = P V and dO the gradient of O:
dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(P dP)),  dQ = scale dS K,  dK = scale dS^T Q.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from refine_rl.policy.attention_tiles import Tile

SCORES = 1 << 19
"""Scores that stand in memory at once: a tile's passes should find it in the cache."""


def scale_queries(dtype: torch.dtype, scale: float) -> bool:
    """Whether the scale may be on the queries, where it is cheaper than on the scores: not where it would
    round them once more, as in bfloat16 all but powers of two do."""
    return dtype == torch.float32 or math.frexp(scale)[0] == 0.5


@lru_cache(maxsize=32)
def tiles_of(
    K: int, G: int, R: int, C: int, L: int, window: int, dtype: torch.dtype, scores: int, apart: float
) -> list[Tile]:
    """The tiles of K heads of G rows of C queries, R for each head, that go on from L tokens; `scores` at
    most in each, and from `apart` with the prefix on it is taken apart."""
    most = max(1, scores // max(1, R * C * (L + C)))
    rows = -(-G // -(-G // most))  # in equal parts
    step = C if most > 1 or scores >= R * C * (L + C) else max(16, scores // (R * (L + C)))
    nothing = torch.empty(0, dtype=torch.bool)
    tiles = []
    for head in range(K):
        for row in range(0, G, rows):
            for first in range(0, C, step):
                last, end = min(first + step, C), min(row + rows, G)
                own = max(0, first - window + 1) if window else 0
                tiles.append(
                    Tile(
                        head=head,
                        row=row,
                        end=end,
                        first=first,
                        last=last,
                        own=own,
                        hidden=_hidden(R, first - own, last - first, window, dtype),
                        far=_far(first, last, L, window) if window and L and L + last > window else nothing,
                        apart=(end - row) * R * (last - first) * L >= apart,
                    )
                )
    return tiles


def _far(first: int, last: int, L: int, window: int) -> torch.Tensor:
    return L + torch.arange(first, last)[:, None] - torch.arange(L)[None] >= window


@lru_cache(maxsize=16)
def _hidden(R: int, before: int, c: int, window: int, dtype: torch.dtype) -> torch.Tensor:
    """c queries for each of R heads and `before` + c keys, of which the last is the last query's own: 0 where
    a query sees a key, -inf where it does not, [R c, before + c]."""
    here = torch.arange(before, before + c)[:, None]
    there = torch.arange(before + c)[None]
    hidden = there > here
    if window:
        hidden |= here - there >= window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf")).repeat(R, 1)
