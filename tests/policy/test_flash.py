"""Putting flash attention's calls together, against the attention that needs none of them. The kernels are
stood in for by the same attention written plainly; tests/test_gpu.py has the real ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from refine_rl.policy import flash
from refine_rl.policy.flash import Texts, layout_of
from refine_rl.policy.prefix import Packed, _blocks, pack
from refine_rl.policy.whole_rows import Whole, pack_whole

LENGTHS = [
    ([5, 5], [[3, 3], [3, 3]]),
    ([5, 9, 7], [[3, 1, 4], [2, 6, 6], [5, 5, 5]]),
    ([6, 4], [[7], [2, 3]]),  # groups of other sizes
    ([6, 4, 5], [[], [], []]),  # prompts alone
    ([4, 6], [[5, 0, 5], []]),
    ([7], [[1, 8, 3]]),
]


def weights(
    q: torch.Tensor, k: torch.Tensor, queries: Texts, keys: Texts, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [H, n, m], and which of them count."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) * scale
    seen = torch.zeros(len(q), len(k), dtype=torch.bool)
    a, b = queries.starts.tolist(), keys.starts.tolist()
    assert len(a) == len(b)
    for n in range(len(a) - 1):
        some = torch.ones(a[n + 1] - a[n], b[n + 1] - b[n], dtype=torch.bool)
        assert len(some) <= queries.longest
        assert some.shape[1] <= keys.longest
        seen[a[n] : a[n + 1], b[n] : b[n + 1]] = some.tril() if causal else some
    return scores.masked_fill(~seen, float("-inf")), seen


def look(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: Texts,
    keys: Texts,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores, _ = weights(q, k, queries, keys, causal, scale)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v), scores.logsumexp(-1)


def look_back(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    logsum: torch.Tensor,
    queries: Texts,
    keys: Texts,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As FlashAttention-2's backward pass: the weights from `logsum`, and dS = P (dO V^T - rowsum(dO O))."""
    scores, _ = weights(q, k, queries, keys, causal, scale)
    share = torch.exp(scores - logsum[..., None])
    rep = q.shape[1] // k.shape[1]
    wide_k, wide_v = k.repeat_interleave(rep, dim=1), v.repeat_interleave(rep, dim=1)
    lean = (grad * out).sum(-1).T[..., None]  # [H, n, 1]
    slope = share * (torch.einsum("nhd,mhd->hnm", grad, wide_v) - lean) * scale
    for_q = torch.einsum("hnm,mhd->nhd", slope, wide_k)
    for_k = torch.einsum("hnm,nhd->mhd", slope, q)
    for_v = torch.einsum("hnm,nhd->mhd", share, grad)
    return for_q, *(x.view(len(x), -1, rep, x.shape[-1]).sum(2) for x in (for_k, for_v))  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "look", look)
    monkeypatch.setattr(flash, "look_back", look_back)


def given(tokens: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(heads, tokens, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    ]
    return parts, torch.randn(tokens, 4, 8, generator=generator, dtype=torch.float64)


def require_same(
    got: torch.Tensor, want: torch.Tensor, slopes: torch.Tensor, parts: Sequence[torch.Tensor]
) -> None:
    torch.testing.assert_close(got, want)
    for mine, other in zip(
        torch.autograd.grad((got * slopes).sum(), parts),
        torch.autograd.grad((want * slopes).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("prompts", "suffixes"), LENGTHS)
def test_values_and_gradients_of_shared_prompts(prompts: list[int], suffixes: list[list[int]]) -> None:
    packed = pack([[0] * n for n in prompts], [[[0] * n for n in some] for some in suffixes]).packed
    assert isinstance(packed, Packed)
    parts, slopes = given(packed.tokens)
    layout = packed.layout(torch.device("cpu"))
    assert layout.widest == max(n + max(some, default=0) for n, some in zip(prompts, suffixes, strict=True))
    got = flash.flash(*parts, layout, scale=0.3)
    require_same(got, _blocks(*parts, packed, 0.3, 0)[0], slopes, parts)


def test_values_and_gradients_of_whole_rows() -> None:
    lengths = [3, 9, 1, 8, 8]
    row, _ = pack_whole([[0] * n for n in lengths])
    assert isinstance(row.packed, Whole)
    parts, slopes = given(sum(lengths))
    layout = layout_of(sorted(lengths, reverse=True), [()] * len(lengths), torch.device("cpu"))
    assert layout.across is None
    q, k, v = (x[None] for x in parts)
    want = row.packed.attend(0, q, k, v, 0.3, 0)[0]
    require_same(flash.flash(*parts, layout, scale=0.3), want, slopes, parts)


def test_nothing_of_it_on_a_processor() -> None:
    x = torch.zeros(2, 3, 8, dtype=torch.bfloat16)
    assert not flash.able(x, x)


def test_gradients_in_one_order_are_asked_for_and_what_was_set_comes_back() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with flash._one_order():
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    with flash._one_order():
        pass
    assert not torch.are_deterministic_algorithms_enabled()
