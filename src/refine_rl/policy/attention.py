"""Attention of many short rows that share a prefix, exact, in tiles that fit the processor's cache.

A row's token looks at the whole prefix, which stands once, and causally at its own row. Scores are made a
tile at a time, and made again in the backward pass: nothing of the size tokens x tokens is ever kept.

With S the scores, P = softmax(S), O = P V and dO the gradient of O:
dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(P dP)),  dQ = scale dS K,  dK = scale dS^T Q.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from refine_rl.policy.wide_attention import wide_attention

SCORES = 1 << 19
"""Scores that stand in memory at once: a tile's passes should find it in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tile:
    """Queries `first` to `last` of some rows, for one key head. `own` is the first key of theirs that they
    see: with a window, not all of those before them."""

    head: int
    rows: slice
    first: int
    last: int
    own: int


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prefix_k: torch.Tensor,
        prefix_v: torch.Tensor,
        scale: float,
        window: int,
    ) -> torch.Tensor:
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=q.device)
        look(q, k, v, prefix_k, prefix_v, out, scale=scale, window=window)
        ctx.save_for_backward(q, k, v, prefix_k, prefix_v)
        ctx.scale, ctx.window = scale, window
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, prefix_k, prefix_v = ctx.saved_tensors
        for_q = torch.empty_like(q)
        # Sums over tiles, in float32 whatever the format.
        keys = (k, v, prefix_k, prefix_v)
        found = tuple(torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in keys)
        look_back(q, *keys, grad.to(v.dtype), for_q, *found, scale=ctx.scale, window=ctx.window)
        return for_q, *(f.to(x.dtype) for f, x in zip(found, keys, strict=True)), None, None


def look(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float,
    window: int,
) -> None:
    """`shared_attention` written into `out`, without a gradient."""
    with torch.autocast(q.device.type, enabled=False):
        for tile in _tiles(q, prefix_k, window):
            weights = _weights(q, k, prefix_k, tile, scale, window)[1]  # [g, R c, L + own]
            L, own = prefix_k.shape[1], slice(tile.own, tile.last)
            value = torch.bmm(weights[..., L:], v[tile.head, tile.rows, own])
            if L:
                value += (weights.flatten(0, 1)[:, :L] @ prefix_v[tile.head]).view_as(value)
            out[tile.head, tile.rows, :, tile.first : tile.last] = value.view(
                len(value), q.shape[2], -1, value.shape[-1]
            )


def look_back(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    grad: torch.Tensor,
    for_q: torch.Tensor,
    for_k: torch.Tensor,
    for_v: torch.Tensor,
    for_prefix_k: torch.Tensor,
    for_prefix_v: torch.Tensor,
    *,
    scale: float,
    window: int,
) -> None:
    """The gradient of `look`, with `grad` that of its result: the one of the queries is written into `for_q`,
    those of keys and values are added to the others, which are float32."""
    L, R, early = prefix_k.shape[1], q.shape[2], scale_queries(q.dtype, scale)
    with torch.autocast(q.device.type, enabled=False):
        for tile in _tiles(q, prefix_k, window):
            head, rows, own = tile.head, tile.rows, slice(tile.own, tile.last)
            asked, weights = _weights(q, k, prefix_k, tile, scale, window)
            given = grad[head, rows, :, tile.first : tile.last]
            given = given.reshape(asked.shape[0], asked.shape[1], -1)  # [g, R c, D]
            slope = torch.empty_like(weights)
            flat = slope.flatten(0, 1)
            slope[..., L:] = torch.bmm(given, v[head, rows, own].transpose(1, 2))
            if L:
                torch.mm(given.flatten(0, 1), prefix_v[head].T, out=flat[:, :L])
                for_prefix_v[head] += weights.flatten(0, 1)[:, :L].T @ given.flatten(0, 1)
            for_v[head, rows, own] += torch.bmm(weights[..., L:].transpose(1, 2), given)
            slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
            if not early:
                slope *= scale
            flat = slope.flatten(0, 1)
            moved = torch.bmm(slope[..., L:], k[head, rows, own])
            if L:
                moved += (flat[:, :L] @ prefix_k[head]).view_as(moved)
                for_prefix_k[head] += flat[:, :L].T @ asked.flatten(0, 1)
            for_k[head, rows, own] += torch.bmm(slope[..., L:].transpose(1, 2), asked)
            if early:
                moved *= scale
            for_q[head, rows, :, tile.first : tile.last] = moved.view(len(moved), R, -1, moved.shape[-1])


def shared_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
) -> torch.Tensor:
    """G rows of C tokens that go on from a prefix of L tokens.

    q is [K, G, R, C, D] (R query heads share each of the K key heads), k and v are [K, G, C, D], the
    prefix [K, L, D]; -> [K, G, R, C, D]. `window` > 0: a token sees itself and window - 1 tokens before it.
    """
    if q.device.type != "cpu":
        return wide_attention(q, k, v, prefix_k, prefix_v, scale=scale, window=window)
    found: torch.Tensor = _SharedAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, prefix_k, prefix_v, scale, window
    )
    return found


def scale_queries(dtype: torch.dtype, scale: float) -> bool:
    """Whether the scale may be on the queries, where it is cheaper than on the scores: not where it would
    round them once more, as in bfloat16 all but powers of two do."""
    return dtype == torch.float32 or math.frexp(scale)[0] == 0.5


def _tiles(q: torch.Tensor, prefix_k: torch.Tensor, window: int) -> Iterator[_Tile]:
    K, G, R, C, _ = q.shape
    L = prefix_k.shape[1]
    most = max(1, SCORES // max(1, R * C * (L + C)))
    rows = -(-G // -(-G // most))  # in equal parts
    step = C if most > 1 or SCORES >= R * C * (L + C) else max(16, SCORES // (R * (L + C)))
    for head in range(K):
        for row in range(0, G, rows):
            for first in range(0, C, step):
                yield _Tile(
                    head=head,
                    rows=slice(row, min(row + rows, G)),
                    first=first,
                    last=min(first + step, C),
                    own=max(0, first - window + 1) if window else 0,
                )


def _weights(
    q: torch.Tensor, k: torch.Tensor, prefix_k: torch.Tensor, tile: _Tile, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile's queries [g, R c, D], scaled where `scale_queries` says so, and its attention weights
    [g, R c, L + own keys]."""
    asked = q[tile.head, tile.rows, :, tile.first : tile.last]  # [g, R, c, D]
    g, R, c, D = asked.shape
    early = scale_queries(q.dtype, scale)
    asked = (asked * scale if early else asked).reshape(g, R * c, D)
    L, own = prefix_k.shape[1], slice(tile.own, tile.last)
    scores = torch.empty(g, R * c, L + tile.last - tile.own, dtype=q.dtype, device=q.device)
    if L:
        torch.mm(asked.flatten(0, 1), prefix_k[tile.head].T, out=scores.flatten(0, 1)[:, :L])
    # What is hidden is -inf before the product is added.
    hidden = _hidden(R, tile.first - tile.own, c, window, q.dtype)
    torch.baddbmm(hidden, asked, k[tile.head, tile.rows, own].transpose(1, 2), out=scores[..., L:])
    if not early:
        scores *= scale
    if window and L and L + tile.last > window:
        here = torch.arange(tile.first, tile.last)[:, None]
        far = L + here - torch.arange(L)[None] >= window
        scores.view(g, R, c, -1)[..., :L].masked_fill_(far, float("-inf"))
    return asked, torch.softmax(scores, dim=-1)


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
