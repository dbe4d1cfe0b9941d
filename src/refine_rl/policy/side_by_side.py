"""The attention of prefix.py for an accelerator: all prompts of a packed row, with their suffixes, at once.

One after the other, each prompt's few products are launches of their own, and most of a training step's. So
prompts and suffixes are moved apart to the length of the longest, where attention works on all of them side
by side, and what was filled in is left out again. Both ways are copies whose backward pass is the other one:
no sums, and so the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from refine_rl.policy.causal import causal_attention
from refine_rl.policy.wide_attention import wide_attention

WASTE = 2.0
"""Where filling up would make more than so many times as many tokens, prompts go one after the other."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """P prompts of at most L tokens, each with at most G suffixes of at most C. A row of S = L + G C places
    stands for each: `places` [P S] says which token of the packed row is there (any, where none is), `real`
    [P S] where there is one, and `back` [N] the place of every token."""

    shape: tuple[int, int, int, int]  # P, L, G, C
    lengths: torch.Tensor  # of the prompts, [P]
    even: bool  # all prompts are of one length
    places: torch.Tensor
    real: torch.Tensor
    back: torch.Tensor


def tables_of(
    prompts: Sequence[int], suffixes: Sequence[Sequence[int]], device: torch.device
) -> Tables | None:
    """The tables of a row of so many tokens; None where too much would have to be filled in."""
    L, G, C = max(prompts), max(map(len, suffixes)), max((n for some in suffixes for n in some), default=0)
    S = L + G * C
    if len(prompts) * S > WASTE * (sum(prompts) + sum(map(sum, suffixes))):
        return None
    back: list[int] = []
    for p, (length, some) in enumerate(zip(prompts, suffixes, strict=True)):
        back += range(p * S, p * S + length)
        for g, n in enumerate(some):
            first = p * S + L + g * C
            back += range(first, first + n)
    places = torch.zeros(len(prompts) * S, dtype=torch.long)
    real = torch.zeros(len(prompts) * S, dtype=torch.bool)
    where = torch.tensor(back)
    places[where] = torch.arange(len(back))
    real[where] = True
    return Tables(
        shape=(len(prompts), L, G, C),
        lengths=torch.tensor(prompts, device=device),
        even=min(prompts) == L,
        places=places.to(device),
        real=real.to(device),
        back=where.to(device),
    )


class _Apart(torch.autograd.Function):
    """[heads, N, D] -> [heads, P S, D]; what stands where no token is has no meaning."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        ctx.tables = tables
        return x.index_select(1, tables.places)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad.index_select(1, ctx.tables.back), None


class _Together(torch.autograd.Function):
    """The way back. Nothing flows to where no token is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        ctx.tables = tables
        return x.index_select(1, tables.back)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad.index_select(1, ctx.tables.places).mul_(ctx.tables.real[:, None]), None


def side_by_side(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tables: Tables, *, scale: float, window: int
) -> torch.Tensor:
    """[H, N, D], [K, N, D], [K, N, D] -> [H, N, D]."""
    P, L, G, C = tables.shape
    H, K = len(q), len(k)
    q, k, v = (_Apart.apply(x, tables).view(len(x), P, L + G * C, -1) for x in (q, k, v))  # type: ignore[no-untyped-call]
    # What is filled in stands behind a prompt, where none of its tokens looks.
    prompts = causal_attention(*(x[:, :, :L].transpose(0, 1) for x in (q, k, v)), scale=scale, window=window)
    parts = [prompts.transpose(0, 1)]
    if C:
        # Under autocast rotary positions may leave queries and keys in a wider format than the values.
        q, k = q.to(v.dtype), k.to(v.dtype)
        asked = q[:, :, L:].view(K, H // K, P, G, C, -1).permute(2, 0, 3, 1, 4, 5)  # [P, K, G, R, C, D]
        own_k, own_v = (x[:, :, L:].view(K, P, G, C, -1).transpose(0, 1).flatten(0, 1) for x in (k, v))
        prefix_k, prefix_v = (x[:, :, :L].transpose(0, 1).flatten(0, 1) for x in (k, v))  # [P K, L, D]
        lengths = None if tables.even else tables.lengths
        found = wide_attention(
            asked.flatten(0, 1), own_k, own_v, prefix_k, prefix_v, scale=scale, window=window, lengths=lengths
        )
        found = found.view(P, K, G, H // K, C, -1).permute(1, 3, 0, 2, 4, 5)  # [K, R, P, G, C, D]
        parts.append(found.reshape(H, P, G * C, -1))
    together: torch.Tensor = _Together.apply(torch.cat(parts, dim=2).flatten(1, 2), tables)  # type: ignore[no-untyped-call]
    return together
