"""The attention of attention.py for an accelerator: all heads of many rows in one product.

There every product is a launch, and a launch costs the processor that asks for it more than the accelerator
needs for a head's work. The values and gradients are those of the tiles (tests/policy/test_attention.py),
and like them they are the same in every run: transformers' and torch's fused kernels with a mask are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

SCORES = 1 << 27
"""Scores that stand in memory at once (512 MiB in float32); in the backward pass they are made again."""


class _WideAttention(torch.autograd.Function):
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
        lengths: torch.Tensor | None,
    ) -> torch.Tensor:
        L = prefix_k.shape[1]
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            hidden = _hidden(q, L, window, lengths)
            for rows in _rows(q, L):
                weights = _weights(q[:, rows], k[:, rows], prefix_k, hidden, scale)
                value = weights[..., L:] @ v[:, rows]  # [K, g, R C, D]
                if L:
                    value += (weights[..., :L].flatten(1, 2) @ prefix_v).view_as(value)
                out[:, rows] = value.view(out[:, rows].shape)
        ctx.save_for_backward(q, k, v, prefix_k, prefix_v)
        ctx.scale, ctx.window, ctx.lengths = scale, window, lengths
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, prefix_k, prefix_v = ctx.saved_tensors
        L = prefix_k.shape[1]
        for_q, for_k, for_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # Sums over rows, in float32 whatever the format.
        for_prefix_k, for_prefix_v = (
            torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (prefix_k, prefix_v)
        )
        with torch.autocast(q.device.type, enabled=False):
            hidden = _hidden(q, L, ctx.window, ctx.lengths)
            for rows in _rows(q, L):
                asked = q[:, rows].flatten(2, 3)  # [K, g, R C, D]
                weights = _weights(q[:, rows], k[:, rows], prefix_k, hidden, ctx.scale)
                given = grad[:, rows].to(v.dtype).reshape(*asked.shape[:3], v.shape[-1])
                slope = torch.empty_like(weights)
                slope[..., L:] = given @ v[:, rows].transpose(2, 3)
                if L:
                    flat = given.flatten(1, 2)  # [K, g R C, D]
                    slope[..., :L] = (flat @ prefix_v.transpose(1, 2)).view(*given.shape[:3], L)
                    for_prefix_v += weights[..., :L].flatten(1, 2).transpose(1, 2) @ flat
                for_v[:, rows] = weights[..., L:].transpose(2, 3) @ given
                slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype) * ctx.scale
                moved = slope[..., L:] @ k[:, rows]
                if L:
                    flat = slope[..., :L].flatten(1, 2)
                    moved += (flat @ prefix_k).view_as(moved)
                    for_prefix_k += flat.transpose(1, 2) @ asked.flatten(1, 2)
                for_k[:, rows] = slope[..., L:].transpose(2, 3) @ asked
                for_q[:, rows] = moved.view(for_q[:, rows].shape)
        return for_q, for_k, for_v, for_prefix_k.to(k.dtype), for_prefix_v.to(v.dtype), None, None, None


def wide_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """G rows of C tokens that go on from a prefix of L tokens: q is [K, G, R, C, D] (R query heads share each
    of the K key heads), k and v are [K, G, C, D], the prefix [K, L, D]; -> [K, G, R, C, D]. `window` > 0: a
    token sees itself and window - 1 tokens before it. With `lengths` [P] these are the heads of P prompts,
    one prompt after the other, filled up to L tokens."""
    found: torch.Tensor = _WideAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, prefix_k, prefix_v, scale, window, lengths
    )
    return found


def _rows(q: torch.Tensor, L: int) -> Iterator[slice]:
    K, G, R, C, _ = q.shape
    step = max(1, SCORES // max(1, K * R * C * (L + C)))
    for first in range(0, G, step):
        yield slice(first, min(first + step, G))


def _hidden(q: torch.Tensor, L: int, window: int, lengths: torch.Tensor | None) -> torch.Tensor:
    """Which keys a token does not see, [P, R C, L + C]; P is 1 where that is the same for all."""
    R, C = q.shape[2:4]
    length = (torch.full((1,), L, device=q.device) if lengths is None else lengths)[:, None, None]
    here = torch.arange(C, device=q.device)[:, None]  # behind the prompt
    own = torch.arange(C, device=q.device)[None]
    before = torch.arange(L, device=q.device)
    hidden_before, hidden_own = before >= length, own > here
    if window:
        hidden_before = hidden_before | (length + here - before >= window)
        hidden_own = hidden_own | (here - own >= window)
    P = len(length)
    return torch.cat([hidden_before.expand(P, C, L), hidden_own.expand(P, C, C)], dim=2).repeat(1, R, 1)


def _weights(
    q: torch.Tensor, k: torch.Tensor, prefix_k: torch.Tensor, hidden: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention weights [K, g, R C, L + C] of the rows' tokens."""
    asked = q.flatten(2, 3)
    L = prefix_k.shape[1]
    scores = torch.empty(*asked.shape[:3], hidden.shape[2], dtype=q.dtype, device=q.device)
    if L:
        scores[..., :L] = (asked.flatten(1, 2) @ prefix_k.transpose(1, 2)).view(*asked.shape[:3], L)
    scores[..., L:] = asked @ k.transpose(2, 3)
    scores.mul_(scale).view(len(hidden), -1, *hidden.shape[1:]).masked_fill_(hidden[:, None], float("-inf"))
    return torch.softmax(scores, dim=-1)
