"""The attention of attention.py, tile by tile.

A tile has one softmax over the scores with the prefix and with its own rows. In float32, where the products
with the prefix are large enough for oneDNN, which multiplies dense matrices, a tile is taken apart instead:
the prefix and the rows each have a softmax of their own. With z the logarithm of what a softmax divides by,
the two are put together by their shares:

    share = exp(z_prefix) / (exp(z_prefix) + exp(z_own)),  O = share O_prefix + (1 - share) O_own

The backward pass is that of attention.py, part by part, dO being share dO or (1 - share) dO; rowsum(P dP)
over both parts is rowsum(O dO) (FlashAttention-2, arXiv 2307.08691).

The functions are written so that torch can compile them to programs of its own (scripted.py): micro-batches
are worked side by side, and a tile is many small operations, each of which would wait for Python's lock.
"""

from typing import NamedTuple

import torch

from refine_rl.policy.onednn import dense_product


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
    apart: bool


class Keys(NamedTuple):
    """What a tile's queries look at, or the gradients of that: of their rows [g, own keys, D], of the prefix
    [L, D]."""

    k: torch.Tensor
    v: torch.Tensor
    prefix_k: torch.Tensor
    prefix_v: torch.Tensor


def keys_of(
    k: torch.Tensor, v: torch.Tensor, prefix_k: torch.Tensor, prefix_v: torch.Tensor, tile: Tile
) -> Keys:
    """A tile's part of [K, G, C, D] twice and [K, L, D] twice, in its place."""
    head, row, end, own, last = tile.head, tile.row, tile.end, tile.own, tile.last
    return Keys(k[head, row:end, own:last], v[head, row:end, own:last], prefix_k[head], prefix_v[head])


def taken(x: torch.Tensor, tile: Tile) -> torch.Tensor:
    """What is a tile's of [K, G, R, C, D], as [g, R c, D]."""
    part = x[tile.head, tile.row : tile.end, :, tile.first : tile.last]
    return part.reshape(part.shape[0], -1, part.shape[3])


def put(x: torch.Tensor, into: torch.Tensor, tile: Tile) -> None:
    """The way back."""
    part = into[tile.head, tile.row : tile.end, :, tile.first : tile.last]
    part.copy_(x.view(part.shape))


def hide_far(scores: torch.Tensor, tile: Tile) -> None:
    """Those with the prefix, [g, R c, L], become -1e30 outside of the window: a softmax over nothing but such
    gets no share."""
    if len(tile.far):
        c, L = tile.far.shape
        scores.view(scores.shape[0], -1, c, L).masked_fill_(tile.far, -1e30)


# -- one softmax ---------------------------------------------------------------------------------


def joint_weights(asked: torch.Tensor, keys: Keys, tile: Tile, scale: float, early: bool) -> torch.Tensor:
    """Of a tile's queries [g, R c, D], [g, R c, L + own keys]."""
    L, own = len(keys.prefix_k), keys.k.shape[1]
    scores = asked.new_empty([asked.shape[0], asked.shape[1], L + own])
    if L > 0:
        torch.mm(asked.flatten(0, 1), keys.prefix_k.t(), out=scores.flatten(0, 1)[:, :L])
    # What is hidden is -inf before the product is added.
    torch.baddbmm(tile.hidden, asked, keys.k.transpose(1, 2), out=scores[:, :, L:])
    if not early:
        scores.mul_(torch.tensor(scale))  # a plain number is rounded to the format first, in a program
    hide_far(scores[:, :, :L], tile)
    return torch.softmax(scores, -1)


def joint_look(weights: torch.Tensor, keys: Keys) -> torch.Tensor:
    L = len(keys.prefix_v)
    value = torch.bmm(weights[:, :, L:], keys.v)
    if L > 0:
        value += torch.mm(weights.flatten(0, 1)[:, :L], keys.prefix_v).view_as(value)
    return value


def joint_look_back(
    asked: torch.Tensor,
    given: torch.Tensor,
    weights: torch.Tensor,
    keys: Keys,
    found: Keys,
    scale: float,
    early: bool,
) -> torch.Tensor:
    """The gradient of a tile's queries, `given` that of their values; those of the keys go to `found`'s."""
    L = len(keys.prefix_k)
    slope = torch.empty_like(weights)
    slope[:, :, L:] = torch.bmm(given, keys.v.transpose(1, 2))
    if L > 0:
        torch.mm(given.flatten(0, 1), keys.prefix_v.t(), out=slope.flatten(0, 1)[:, :L])
        found.prefix_v.add_(torch.mm(weights.flatten(0, 1)[:, :L].t(), given.flatten(0, 1)))
    found.v.add_(torch.bmm(weights[:, :, L:].transpose(1, 2), given))
    slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
    if not early:
        slope.mul_(torch.tensor(scale))
    moved = torch.bmm(slope[:, :, L:], keys.k)
    if L > 0:
        before = slope.flatten(0, 1)[:, :L]
        moved += torch.mm(before, keys.prefix_k).view_as(moved)
        found.prefix_k.add_(torch.mm(before.t(), asked.flatten(0, 1)))
    found.k.add_(torch.bmm(slope[:, :, L:].transpose(1, 2), asked))
    return moved


# -- two, in float32, with the scale on the queries ------------------------------------------------


def own_scores(asked: torch.Tensor, keys: Keys, tile: Tile) -> torch.Tensor:
    """[g, R c, own keys]."""
    return torch.baddbmm(tile.hidden, asked, keys.k.transpose(1, 2))


def prefix_scores(asked: torch.Tensor, keys: Keys, tile: Tile) -> torch.Tensor:
    """[g R c, L]."""
    scores = dense_product(asked.flatten(0, 1), keys.prefix_k)
    hide_far(scores.view(asked.shape[0], asked.shape[1], -1), tile)
    return scores


def divided_by(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """z. The largest weight is that of the largest score, exp(score - z)."""
    return scores.amax(-1) - weights.amax(-1).log()


def apart_look(asked: torch.Tensor, keys: Keys, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of a tile's queries [g, R c, D], and the prefix's shares [g, R c, 1]."""
    own, before = own_scores(asked, keys, tile), prefix_scores(asked, keys, tile)
    own_weights, weights = torch.softmax(own, -1), torch.softmax(before, -1)
    z, z_own = divided_by(before, weights), divided_by(own, own_weights)
    share = torch.sigmoid(z.view_as(z_own) - z_own)[:, :, None]
    value = torch.bmm(own_weights, keys.v)
    return torch.lerp(value, dense_product(weights, keys.prefix_v.t()).view_as(value), share), share


def apart_look_back(
    asked: torch.Tensor,
    given: torch.Tensor,
    out: torch.Tensor,
    share: torch.Tensor,
    keys: Keys,
    found: Keys,
    tile: Tile,
) -> torch.Tensor:
    """As `joint_look_back`, with the values and shares that `apart_look` found."""
    sums = (given * out).sum(-1, keepdim=True)
    some, some_sums = given - given * share, sums - sums * share
    weights = torch.softmax(own_scores(asked, keys, tile), -1)
    slope = torch.bmm(some, keys.v.transpose(1, 2)).sub_(some_sums).mul_(weights)
    moved = torch.bmm(slope, keys.k)
    found.v.add_(torch.bmm(weights.transpose(1, 2), some))
    found.k.add_(torch.bmm(slope.transpose(1, 2), asked))

    some, some_sums = (given - some).flatten(0, 1), (sums - some_sums).view(-1, 1)
    weights = torch.softmax(prefix_scores(asked, keys, tile), -1)
    slope = dense_product(some, keys.prefix_v).sub_(some_sums).mul_(weights)
    moved += dense_product(slope, keys.prefix_k.t()).view_as(moved)
    found.prefix_v.add_(dense_product(weights.t(), some.t()))
    found.prefix_k.add_(dense_product(slope.t(), asked.flatten(0, 1).t()))
    return moved


# -- all tiles -------------------------------------------------------------------------------------


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
) -> None:
    """Attention of q [K, G, R, C, D] to the prefix [K, L, D] and its rows [K, G, C, D], written into `out`;
    into `shares`, [K, G, R, C, 1], those of the prefix in tiles that are taken apart."""
    prefix_k, prefix_v = prefix_k.contiguous(), prefix_v.contiguous()
    for tile in tiles:
        asked, keys = taken(q, tile), keys_of(k, v, prefix_k, prefix_v, tile)
        asked = asked * scale if early else asked
        if tile.apart:
            value, share = apart_look(asked, keys, tile)
            put(share, shares, tile)
        else:
            value = joint_look(joint_weights(asked, keys, tile, scale, early), keys)
        put(value, out, tile)


def look_back(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    grad: torch.Tensor,
    out: torch.Tensor,
    shares: torch.Tensor,
    for_q: torch.Tensor,
    for_k: torch.Tensor,
    for_v: torch.Tensor,
    for_prefix_k: torch.Tensor,
    for_prefix_v: torch.Tensor,
    tiles: list[Tile],
    scale: float,
    early: bool,
) -> None:
    """The gradient of `look`, with `grad` that of its result `out`: the one of the queries is written into
    `for_q`, those of keys and values are added to the others, which are float32."""
    prefix_k, prefix_v = prefix_k.contiguous(), prefix_v.contiguous()
    for tile in tiles:
        asked, given = taken(q, tile), taken(grad, tile)
        asked = asked * scale if early else asked
        keys = keys_of(k, v, prefix_k, prefix_v, tile)
        found = keys_of(for_k, for_v, for_prefix_k, for_prefix_v, tile)
        if tile.apart:
            moved = apart_look_back(asked, given, taken(out, tile), taken(shares, tile), keys, found, tile)
        else:
            weights = joint_weights(asked, keys, tile, scale, early)
            moved = joint_look_back(asked, given, weights, keys, found, scale, early)
        put(moved.mul_(scale) if early else moved, for_q, tile)
