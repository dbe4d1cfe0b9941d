"""The attention of attention.py, tile by tile.

A tile's queries look at the prefix and at their own row apart from one another, each a softmax of its own, so
that every product with the prefix is one of two dense matrices, which oneDNN multiplies. With z the
logarithm of what a softmax divides by, the two are put together by their shares:

    share = exp(z_prefix) / (exp(z_prefix) + exp(z_own)),  O = share O_prefix + (1 - share) O_own

The backward pass is that of attention.py, part by part, dO being share dO or (1 - share) dO; rowsum(P dP)
over both parts is rowsum(O dO) (FlashAttention-2, arXiv 2307.08691).

The functions are written so that torch can compile them to programs of its own (scripted.py): micro-batches
are worked side by side, and a tile is many small operations, each of which would wait for Python's lock.
"""

from typing import NamedTuple

import torch

from refine_rl.policy.onednn import LEAST, dense_product


class Tile(NamedTuple):
    """Queries `first` to `last` of rows `row` to `end`, for one key head. `own` is the first key of theirs
    that they see: with a window, not all of those before them."""

    head: int
    row: int
    end: int
    first: int
    last: int
    own: int
    hidden: torch.Tensor  # [R c, last - own]: 0 where a query sees a key of its row, -inf where it does not
    far: torch.Tensor  # [c, L]: which keys of the prefix are outside of the window; empty where none is


def times(a: torch.Tensor, b: torch.Tensor, dnn: bool, least: int = LEAST) -> torch.Tensor:
    """a b^T, [N, K] and [M, K] -> [N, M]; `dnn`: oneDNN is at hand."""
    return dense_product(a, b) if dnn and a.numel() * len(b) >= least else torch.mm(a, b.t())


def taken(x: torch.Tensor, tile: Tile) -> torch.Tensor:
    """What is a tile's of [K, G, R, C, D], as [g, R c, D]."""
    part = x[tile.head, tile.row : tile.end, :, tile.first : tile.last]
    return part.reshape(part.shape[0], -1, part.shape[3])


def put(x: torch.Tensor, into: torch.Tensor, tile: Tile) -> None:
    """The way back."""
    part = into[tile.head, tile.row : tile.end, :, tile.first : tile.last]
    part.copy_(x.view(part.shape))


def own_scores(asked: torch.Tensor, k: torch.Tensor, tile: Tile, scale: float, early: bool) -> torch.Tensor:
    """Of a tile's queries with the keys of their rows, [g, R c, own keys]."""
    keys = k[tile.head, tile.row : tile.end, tile.own : tile.last]
    # What is hidden is -inf before the product is added.
    scores = torch.baddbmm(tile.hidden, asked, keys.transpose(1, 2))
    return scores if early else scores.mul_(scale)


def prefix_scores(
    asked: torch.Tensor, prefix_k: torch.Tensor, tile: Tile, scale: float, early: bool, dnn: bool
) -> torch.Tensor:
    """With those of the prefix, [g R c, L]; -1e30 outside of the window: a softmax over nothing but such
    gets no share."""
    scores = times(asked.flatten(0, 1), prefix_k[tile.head], dnn)
    if not early:
        scores.mul_(scale)
    if len(tile.far):
        scores.view(-1, tile.far.shape[0], tile.far.shape[1]).masked_fill_(tile.far, -1e30)
    return scores


def share_of(
    before: torch.Tensor, weights: torch.Tensor, own: torch.Tensor, own_weights: torch.Tensor
) -> torch.Tensor:
    """The prefix's share in each query's attention, float32 [g, R c, 1]: of both parts scores and softmax.
    The largest weight is that of the largest score, exp(score - z)."""
    z = before.amax(-1).float() - weights.amax(-1).float().log()
    z_own = own.amax(-1).float() - own_weights.amax(-1).float().log()
    return torch.sigmoid(z.view_as(z_own) - z_own)[:, :, None]


def look(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    out: torch.Tensor,
    shares: torch.Tensor,
    tiles: list[Tile],
    scale: float,
    early: bool,
    dnn: bool,
) -> None:
    """Attention of q [K, G, R, C, D] to the prefix [K, L, D] and its rows [K, G, C, D], written into `out`;
    the prefix's shares in it into `shares`, [K, G, R, C, 1]."""
    prefix_k, prefix_v = prefix_k.contiguous(), prefix_v.contiguous()
    for tile in tiles:
        asked = taken(q, tile)
        asked = asked * scale if early else asked
        own = own_scores(asked, k, tile, scale, early)
        own_weights = torch.softmax(own, -1)
        value = torch.bmm(own_weights, v[tile.head, tile.row : tile.end, tile.own : tile.last])
        if prefix_k.shape[1] > 0:
            before = prefix_scores(asked, prefix_k, tile, scale, early, dnn)
            weights = torch.softmax(before, -1)
            share = share_of(before, weights, own, own_weights)
            put(share, shares, tile)
            found = times(weights, prefix_v[tile.head].t(), dnn).view_as(value)
            value = torch.lerp(value.float(), found.float(), share)
        put(value, out, tile)


def look_back(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    grad: torch.Tensor,
    shares: torch.Tensor,
    sums: torch.Tensor,
    for_q: torch.Tensor,
    for_k: torch.Tensor,
    for_v: torch.Tensor,
    for_prefix_k: torch.Tensor,
    for_prefix_v: torch.Tensor,
    tiles: list[Tile],
    scale: float,
    early: bool,
    dnn: bool,
) -> None:
    """The gradient of `look`, with `grad` that of its result and `sums` those of the two's product,
    [K, G, R, C, 1]: the one of the queries is written into `for_q`, those of keys and values are added to the
    others, which are float32."""
    prefix_k, prefix_v = prefix_k.contiguous(), prefix_v.contiguous()
    for tile in tiles:
        head, rows, end, first, last = tile.head, tile.row, tile.end, tile.own, tile.last
        asked, given, pulled = taken(q, tile), taken(grad, tile), taken(sums, tile)
        asked = asked * scale if early else asked
        some, some_pulled = given, pulled
        if prefix_k.shape[1] > 0:
            share = taken(shares, tile)
            some, some_pulled = (given - given * share).to(given.dtype), pulled - pulled * share
        weights = torch.softmax(own_scores(asked, k, tile, scale, early), -1)
        slope = torch.bmm(some, v[head, rows:end, first:last].transpose(1, 2))
        slope.sub_(some_pulled.to(slope.dtype)).mul_(weights)
        if not early:
            slope.mul_(scale)
        moved = torch.bmm(slope, k[head, rows:end, first:last])
        for_v[head, rows:end, first:last].add_(torch.bmm(weights.transpose(1, 2), some))
        for_k[head, rows:end, first:last].add_(torch.bmm(slope.transpose(1, 2), asked))
        if prefix_k.shape[1] > 0:
            flat = ((given - some).flatten(0, 1), (pulled - some_pulled).view(-1, 1).to(given.dtype))
            weights = torch.softmax(prefix_scores(asked, prefix_k, tile, scale, early, dnn), -1)
            slope = times(flat[0], prefix_v[head], dnn)
            slope.sub_(flat[1]).mul_(weights)
            if not early:
                slope.mul_(scale)
            moved += times(slope, prefix_k[head].t(), dnn).view_as(moved)
            for_prefix_v[head].add_(times(weights.t(), flat[0].t(), dnn))
            for_prefix_k[head].add_(times(slope.t(), asked.flatten(0, 1).t(), dnn))
        put(moved.mul_(scale) if early else moved, for_q, tile)
