"""Attention behind a shared prefix, against softmax(Q K^T) V written out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from refine_rl.policy import attention
from refine_rl.policy import in_pieces as in_pieces_module
from refine_rl.policy import wide_attention as wide_module
from refine_rl.policy.attention import tiles_of
from refine_rl.policy.in_pieces import Piece, in_pieces, pieces_look, pieces_look_back
from refine_rl.policy.onednn import at_hand
from refine_rl.policy.scripted import scripted
from refine_rl.policy.wide_attention import wide_attention

Inputs = tuple[torch.Tensor, ...]


def tiled(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
) -> torch.Tensor:
    """As wide_attention, by the tiles of a packed row that has the prefix and, as one piece, the rows."""
    K, G, R, C, D = q.shape
    L = prefix_k.shape[1]
    asked = q.transpose(1, 2).reshape(K * R, G * C, D)
    nobody = asked.new_zeros(K * R, L, D)
    none = torch.empty(0, dtype=torch.bool)
    keys, values = (torch.cat([a, b.flatten(1, 2)], 1) for a, b in ((prefix_k, k), (prefix_v, v)))
    row = (torch.cat([nobody, asked], 1), keys, values)
    # Laid out as a model hands them over: a token's heads side by side.
    row = tuple(x.transpose(0, 1).contiguous().transpose(0, 1) for x in row)  # type: ignore[assignment]
    out = in_pieces(*row, [Piece(L, L + G * C, 0, L, G, none, none)], scale=scale, window=window)
    return out[L:].transpose(0, 1).view(K, R, G, C, D).transpose(1, 2)


def taken_apart(*given: torch.Tensor, scale: float, window: int = 0) -> torch.Tensor:
    """The same, with a softmax for the prefix in every tile that has one, where oneDNN is at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_pieces_module, "LEAST", 1)
        return tiled(*given, scale=scale, window=window)


def test_tiles_are_programs_without_pythons_lock() -> None:
    assert scripted(pieces_look) is not None
    assert scripted(pieces_look_back) is not None


def inputs(
    K: int, G: int, R: int, C: int, D: int, L: int, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(K, G, R, C, D), (K, G, C, D), (K, G, C, D), (K, L, D), (K, L, D)]
    return [torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def plainly(given: Inputs, scale: float, window: int) -> torch.Tensor:
    """Every row by itself, with the prefix before its own keys."""
    q, k, v, prefix_k, prefix_v = given
    K, G, _, C, _ = q.shape
    L = prefix_k.shape[1]
    out = torch.empty_like(q)
    for head in range(K):
        for row in range(G):
            keys = torch.cat([prefix_k[head], k[head, row]])
            values = torch.cat([prefix_v[head], v[head, row]])
            for c in range(C):
                first = max(0, L + c + 1 - window) if window else 0
                seen = slice(first, L + c + 1)
                weights = (q[head, row, :, c] @ keys[seen].T * scale).softmax(-1)
                out[head, row, :, c] = weights @ values[seen]
    return out


def with_gradients(attend: object, given: list[torch.Tensor]) -> list[torch.Tensor]:
    out = attend(tuple(given))  # type: ignore[operator]
    slopes = torch.sin(torch.arange(out.numel())).to(torch.bfloat16).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * slopes).sum(), given)]


@pytest.mark.parametrize("attend", [tiled, taken_apart, wide_attention])
@pytest.mark.parametrize("scores", [1 << 19, 200, 1])
@pytest.mark.parametrize("window", [0, 1, 5, 30])
@pytest.mark.parametrize(
    "shape", [(2, 3, 2, 7, 4, 11), (1, 1, 3, 40, 4, 0), (1, 2, 1, 1, 4, 6), (2, 2, 2, 20, 8, 1)]
)
def test_it_is_attention_in_value_and_gradient(
    shape: tuple[int, ...],
    window: int,
    scores: int,
    attend: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "SCORES", scores)
    monkeypatch.setattr(wide_module, "SCORES", scores)
    given = inputs(*shape)
    got = with_gradients(lambda x: attend(*x, scale=0.3, window=window), given)
    doubled = [x.detach().double().requires_grad_() for x in given]
    want = with_gradients(lambda x: plainly(x, 0.3, window), doubled)
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), exact, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", [tiled, wide_attention])
@pytest.mark.parametrize("scale", [0.25, 0.3])
def test_in_bfloat16_it_is_rounded_and_no_more(scale: float, attend: Callable[..., torch.Tensor]) -> None:
    given = inputs(2, 3, 2, 9, 16, 21, torch.bfloat16)
    got = with_gradients(lambda x: attend(*x, scale=scale), given)
    doubled = [x.detach().double().requires_grad_() for x in given]
    want = with_gradients(lambda x: plainly(x, scale, 0), doubled)
    for mine, exact in zip(got, want, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - exact).abs().mean() < 0.01 * exact.abs().mean() + 1e-3


def test_autocast_does_not_reach_into_it() -> None:
    given = inputs(1, 2, 1, 4, 8, 5)
    plain = tiled(*given, scale=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tiled(*given, scale=0.5), plain)


def test_tiles_cover_every_query_once() -> None:
    for scores in (1, 1000, 3000, 1 << 19):
        tiles = tiles_of(2, 5, 2, 33, 10, 0, torch.float32, scores, math.inf)
        covered = torch.zeros(2, 5, 33)
        for tile in tiles:
            covered[tile.head, tile.row : tile.end, tile.first : tile.last] += 1
        assert bool((covered == 1).all())
        assert all(a[:5] != b[:5] for a, b in pairwise(tiles))


def test_tiles_are_taken_apart_where_products_with_the_prefix_are_large() -> None:
    def how(G: int, L: int) -> list[bool]:
        return [tile.apart for tile in tiles_of(1, G, 2, 8, L, 0, torch.float32, 1 << 19, 320)]

    assert how(2, 10) == [True]  # 2 rows of 8 queries for each of 2 heads, times 10
    assert how(2, 9) == [False]
    assert how(1, 10) == [False]


def test_large_products_with_a_prefix_are_onednn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(1, 2, 2, 64, 64, 300)
    assert in_pieces_module.LEAST < 2 * 2 * 64 * 64 * 300
    got = with_gradients(lambda x: tiled(*x, scale=0.125), given)
    want = with_gradients(lambda x: wide_attention(*x, scale=0.125), given)
    monkeypatch.setattr(in_pieces_module, "at_hand", lambda *_: False)
    plain = with_gradients(lambda x: tiled(*x, scale=0.125), given)
    for mine, other, exact in zip(got, plain, want, strict=True):
        torch.testing.assert_close(mine, exact, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(other, exact, atol=2e-4, rtol=1e-4)
    if at_hand(given[0].device, torch.float32):
        assert not all(map(torch.equal, got, plain))


def test_bfloat16_is_not_taken_apart() -> None:
    given = inputs(1, 2, 2, 9, 16, 21, torch.bfloat16)
    ways = (tiled, taken_apart)
    one, other = (with_gradients(lambda x, w=way: w(*x, scale=0.25), given) for way in ways)  # type: ignore[misc]
    assert all(map(torch.equal, one, other))
