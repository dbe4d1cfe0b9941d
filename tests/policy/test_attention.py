"""Attention behind a shared prefix, against softmax(Q K^T) V written out in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from refine_rl.policy import attention
from refine_rl.policy import wide_attention as wide_module
from refine_rl.policy.attention import shared_attention
from refine_rl.policy.wide_attention import wide_attention

Inputs = tuple[torch.Tensor, ...]


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


@pytest.mark.parametrize("attend", [shared_attention, wide_attention])
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


@pytest.mark.parametrize("attend", [shared_attention, wide_attention])
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
    plain = shared_attention(*given, scale=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(shared_attention(*given, scale=0.5), plain)


def test_tiles_cover_every_query_once(monkeypatch: pytest.MonkeyPatch) -> None:
    q, prefix_k = torch.empty(2, 5, 2, 33, 4), torch.empty(2, 10, 4)
    for scores in (1, 1000, 3000, 1 << 19):
        monkeypatch.setattr(attention, "SCORES", scores)
        tiles = list(attention._tiles(q, prefix_k, 0))
        covered = torch.zeros(2, 5, 33)
        for tile in tiles:
            covered[tile.head, tile.rows, tile.first : tile.last] += 1
        assert bool((covered == 1).all())
        assert all(a != b for a, b in pairwise(tiles))
