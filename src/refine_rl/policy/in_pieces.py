"""The attention of a packed row on a processor: prefix.py's blocks, in one function with one backward pass.

The row is taken in pieces, each the queries of some tokens that look at what stands before them in the row
and, causally, at themselves (attention.py): a prompt is a few pieces of one text, its completions are one
piece of several. Values and gradients of all pieces go straight to their places in the row; pieces that
autograd cut out of it would each leave a gradient of the whole row behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from refine_rl.policy.attention import look, look_back


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """G texts of at most C tokens, which stand at `start` to `end` of the row one after the other, behind
    what stands at `first` to `last`. Where they are not equally long, `places` [G, C] says where each token
    is, from `start` on, and `real` [G, C] which of these there are."""

    start: int
    end: int
    first: int
    last: int
    texts: int
    places: torch.Tensor | None = None
    real: torch.Tensor | None = None

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[heads, N, D] -> [heads, G, C, D]; where no token is, the first one stands again."""
        own = x[:, self.start : self.end]
        if self.places is None:
            return own.view(len(x), self.texts, -1, x.shape[2])
        return own[:, self.places]

    def asked(self, x: torch.Tensor, K: int) -> torch.Tensor:
        """[H, N, D] -> [K, G, R, C, D]: query heads that share a key head stand together."""
        spread = self.spread(x)
        return spread.view(K, len(x) // K, *spread.shape[1:]).transpose(1, 2)

    def put(self, x: torch.Tensor, row: torch.Tensor) -> None:
        """[heads, G, C, D] into its places of the row, [heads, N, D]."""
        row[:, self.start : self.end] = x.flatten(1, 2) if self.real is None else x[:, self.real]

    def add(self, x: torch.Tensor, row: torch.Tensor) -> None:
        """[heads, G, C, D] to what is at its places of the row, [heads, N, D]."""
        row[:, self.start : self.end] += x.flatten(1, 2) if self.real is None else x[:, self.real]


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
        H, N, _ = q.shape
        K = len(k)
        found = q.new_empty(N, H, v.shape[2])
        row = found.transpose(0, 1)
        for piece in pieces:
            asked = piece.asked(q, K)
            before = slice(piece.first, piece.last)
            if piece.real is None:
                out = piece.asked(row, K)  # its own place in the row
            else:
                out = asked.new_empty(*asked.shape[:-1], v.shape[2])
            keys = (piece.spread(k), piece.spread(v), k[:, before], v[:, before])
            look(asked, *keys, out, scale=scale, window=window)
            if piece.real is not None:
                piece.put(out.transpose(1, 2).flatten(0, 1), row)
        ctx.save_for_backward(q, k, v)
        ctx.pieces, ctx.scale, ctx.window = pieces, scale, window
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        K = len(k)
        given = grad.to(v.dtype).transpose(0, 1)  # [H, N, D]
        # As the row is laid out where they come from: a token's heads side by side.
        for_q = q.new_empty(q.shape[1], len(q), q.shape[2]).transpose(0, 1)
        # Sums, in float32 whatever the format.
        for_k, for_v = (
            torch.zeros(x.shape[1], K, x.shape[2], dtype=torch.float32).transpose(0, 1) for x in (k, v)
        )
        for piece in ctx.pieces:
            _piece_back(piece, q, k, v, given, for_q, for_k, for_v, ctx.scale, ctx.window)
        return for_q, for_k.to(k.dtype), for_v.to(v.dtype), None, None, None


def _piece_back(
    piece: Piece,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    given: torch.Tensor,
    for_q: torch.Tensor,
    for_k: torch.Tensor,
    for_v: torch.Tensor,
    scale: float,
    window: int,
) -> None:
    """What a piece adds to the row's gradients."""
    K, before = len(k), slice(piece.first, piece.last)
    asked, own = piece.asked(q, K), (piece.spread(k), piece.spread(v))
    slopes = piece.asked(given, K)
    if piece.real is None:  # all of it in its places
        mine = (piece.asked(for_q, K), piece.spread(for_k), piece.spread(for_v))
    else:
        slopes = slopes * piece.real[:, None, :, None]
        sums = [torch.zeros(x.shape, dtype=torch.float32) for x in own]
        mine = (torch.empty_like(asked), sums[0], sums[1])
    prefix = (k[:, before], v[:, before])
    look_back(
        asked, *own, *prefix, slopes, *mine, for_k[:, before], for_v[:, before], scale=scale, window=window
    )
    if piece.real is not None:
        piece.put(mine[0].transpose(1, 2).flatten(0, 1), for_q)
        piece.add(mine[1], for_k)
        piece.add(mine[2], for_v)


def in_pieces(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pieces: Sequence[Piece], *, scale: float, window: int
) -> torch.Tensor:
    """[H, N, D], [K, N, D], [K, N, D] of a row of these pieces -> [N, H, D]."""
    # Under autocast rotary positions may leave queries and keys in a wider format than the values.
    q, k = q.to(v.dtype), k.to(v.dtype)
    found: torch.Tensor = _InPieces.apply(q, k, v, pieces, scale, window)  # type: ignore[no-untyped-call]
    return found
