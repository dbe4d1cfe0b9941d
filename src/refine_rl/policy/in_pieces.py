"""The attention of a packed row on a processor: prefix.py's blocks, in one function with one backward pass.

The row is taken in pieces, each the queries of some tokens that look at what stands before them in the row
and, causally, at themselves (attention.py): a prompt is a few pieces of one text, its completions are one
piece of several. Values and gradients of all pieces go straight to their places in the row; pieces that
autograd cut out of it would each leave a gradient of the whole row behind.

Like attention_tiles.py it is written so that torch can compile it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from refine_rl.policy import attention
from refine_rl.policy.attention import scale_queries, tiles_of
from refine_rl.policy.attention_tiles import Tile, look, look_back
from refine_rl.policy.onednn import LEAST, at_hand
from refine_rl.policy.scripted import lockless


class Piece(NamedTuple):
    """G texts of at most C tokens, which stand at `start` to `end` of the row one after the other, behind
    what stands at `first` to `last`. Where they are not equally long, `places` [G, C] says where each token
    is, from `start` on, and `real` [G, C] which of these there are; else both are empty."""

    start: int
    end: int
    first: int
    last: int
    texts: int
    places: torch.Tensor
    real: torch.Tensor


def spread(x: torch.Tensor, piece: Piece) -> torch.Tensor:
    """[heads, N, D] -> [heads, G, C, D]; where no token is, the first one stands again."""
    own = x[:, piece.start : piece.end]
    if len(piece.places):
        return own[:, piece.places]
    return own.view(x.shape[0], piece.texts, -1, x.shape[2])


def asked(x: torch.Tensor, K: int, piece: Piece) -> torch.Tensor:
    """[H, N, D] -> [K, G, R, C, D]: query heads that share a key head stand together."""
    own = spread(x, piece)
    return own.view(K, x.shape[0] // K, own.shape[1], own.shape[2], own.shape[3]).transpose(1, 2)


def heads_of(x: torch.Tensor) -> torch.Tensor:
    """The way back, [K, G, R, C, D] -> [H, G, C, D]."""
    return x.transpose(1, 2).flatten(0, 1)


def pieces_look(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pieces: list[Piece],
    tiles: list[list[Tile]],
    scale: float,
    early: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`in_pieces` without a gradient, and the shares of what stands before a piece, [H, N, 1], where a tile
    is taken apart (attention_tiles.py)."""
    (H, N, _), K = q.shape, k.shape[0]
    found = q.new_empty([N, H, v.shape[2]])
    row, shares = found.transpose(0, 1), torch.zeros([H, N, 1], dtype=torch.float32)
    for n, piece in enumerate(pieces):
        even = len(piece.real) == 0
        # In its own place in the row, where all of it is one.
        out, share = asked(row, K, piece), asked(shares, K, piece)
        if not even:
            out, share = torch.empty_like(out), torch.zeros_like(share)
        a, b = piece.first, piece.last
        own_k, own_v = spread(k, piece), spread(v, piece)
        look(asked(q, K, piece), own_k, own_v, k[:, a:b], v[:, a:b], out, share, tiles[n], scale, early)
        if not even:
            row[:, piece.start : piece.end] = heads_of(out)[:, piece.real]
            shares[:, piece.start : piece.end] = heads_of(share)[:, piece.real]
    return found, shares


def pieces_look_back(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    found: torch.Tensor,
    shares: torch.Tensor,
    grad: torch.Tensor,
    pieces: list[Piece],
    tiles: list[list[Tile]],
    scale: float,
    early: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v, with `grad` [N, H, D] that of the result, `found`."""
    (H, N, D), K = q.shape, k.shape[0]
    given, row = grad.to(v.dtype).transpose(0, 1), found.transpose(0, 1)  # [H, N, D]
    # As the row is laid out where they come from: a token's heads side by side.
    for_q = q.new_empty([N, H, D]).transpose(0, 1)
    # Sums, in float32 whatever the format.
    for_k = torch.zeros([N, K, D], dtype=torch.float32).transpose(0, 1)
    for_v = torch.zeros([N, K, v.shape[2]], dtype=torch.float32).transpose(0, 1)
    for n, piece in enumerate(pieces):
        ask, own_k, own_v = asked(q, K, piece), spread(k, piece), spread(v, piece)
        slopes, out, share = asked(given, K, piece), asked(row, K, piece), asked(shares, K, piece)
        even = len(piece.real) == 0
        if even:  # all of it in its places
            mine, mine_k, mine_v = asked(for_q, K, piece), spread(for_k, piece), spread(for_v, piece)
        else:
            slopes = slopes * piece.real[:, None, :, None]
            mine = torch.empty_like(ask)
            mine_k = torch.zeros(own_k.shape, dtype=torch.float32)
            mine_v = torch.zeros(own_v.shape, dtype=torch.float32)
        a, b = piece.first, piece.last
        look_back(
            ask, own_k, own_v, k[:, a:b], v[:, a:b], slopes, out, share,
            mine, mine_k, mine_v, for_k[:, a:b], for_v[:, a:b], tiles[n], scale, early,
        )  # fmt: skip
        if not even:
            for_q[:, piece.start : piece.end] = heads_of(mine)[:, piece.real]
            for_k[:, piece.start : piece.end] += mine_k[:, piece.real]
            for_v[:, piece.start : piece.end] += mine_v[:, piece.real]
    return for_q, for_k.to(k.dtype), for_v.to(v.dtype)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        pieces: Sequence[Piece],
        scale: float,
        window: int,
    ) -> torch.Tensor:
        dnn = q.dtype == torch.float32 and at_hand(q.device, q.dtype)
        form = (window, q.dtype, attention.SCORES, LEAST / q.shape[2] if dnn else math.inf)
        K, R = len(k), len(q) // len(k)
        tiles = [tiles_of(K, p.texts, R, _longest(p), p.last - p.first, *form) for p in pieces]
        ctx.how = (pieces, tiles, scale, scale_queries(q.dtype, scale))
        with torch.autocast("cpu", enabled=False):
            found, shares = lockless(pieces_look, q, k, v, *ctx.how)
        ctx.save_for_backward(q, k, v, found, shares)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            gradients = lockless(pieces_look_back, *ctx.saved_tensors, grad, *ctx.how)
        return *gradients, None, None, None


def _longest(piece: Piece) -> int:
    """C."""
    return piece.real.shape[1] if len(piece.real) else (piece.end - piece.start) // piece.texts


def in_pieces(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pieces: Sequence[Piece], *, scale: float, window: int
) -> torch.Tensor:
    """[H, N, D], [K, N, D], [K, N, D] of a row of these pieces -> [N, H, D]."""
    # Under autocast rotary positions may leave queries and keys in a wider format than the values.
    q, k = q.to(v.dtype), k.to(v.dtype)
    found: torch.Tensor = _InPieces.apply(q, k, v, pieces, scale, window)  # type: ignore[no-untyped-call]
    return found
