"""A packed row's attention in pieces, against each text alone in float64."""

from __future__ import annotations

import pytest
import torch

from refine_rl.policy import prefix
from refine_rl.policy.in_pieces import in_pieces
from refine_rl.policy.prefix import Packed, pack

ROWS = {
    "ragged": pack([[1] * 7, [2], [3] * 5], [[[4] * 3, [5], [6] * 9], [[7] * 2], []]).packed,
    "even": pack([[1] * 11, [2] * 4], [[[4] * 6, [5] * 6, [6] * 6], [[7] * 2, [8] * 2]]).packed,
}


def plainly(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, scale: float, window: int
) -> torch.Tensor:
    """Each token with its keys written out, [N, H, D]."""
    H, N, _ = q.shape
    out = torch.zeros(N, H, v.shape[2], dtype=q.dtype)
    for block in packed.blocks:
        prompt = list(range(block.start, block.start + block.length))
        texts, start = [prompt], block.start + block.length
        for length in block.suffixes:
            texts.append(prompt + list(range(start, start + length)))
            start += length
        for text in texts:
            for place, token in enumerate(text):
                seen = text[max(0, place + 1 - window) if window else 0 : place + 1]
                for head in range(H):
                    own = head // (H // len(k))
                    weights = (k[own, seen] @ q[head, token] * scale).softmax(-1)
                    out[token, head] = weights @ v[own, seen]
    return out


@pytest.mark.parametrize("row", list(ROWS))
@pytest.mark.parametrize("window", [0, 1, 6])
@pytest.mark.parametrize("step", [1, 4, 128])
def test_each_token_sees_what_it_would_see_alone(
    row: str, window: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "STEP", step)
    packed, generator = ROWS[row], torch.Generator().manual_seed(0)
    given = [
        torch.randn(packed.tokens, heads, 4, generator=generator).transpose(0, 1).requires_grad_()
        for heads in (4, 2, 2)
    ]
    slopes = torch.randn(packed.tokens, 4, 4, generator=generator)
    out = in_pieces(*given, packed.pieces(window), scale=0.3, window=window)
    found = [out, *torch.autograd.grad(out, given, slopes)]
    doubled = [x.detach().double().requires_grad_() for x in given]
    exact = plainly(*doubled, packed, 0.3, window)
    wanted = [exact, *torch.autograd.grad(exact, doubled, slopes.double())]
    for mine, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), want, atol=3e-6, rtol=1e-5)


def test_in_bfloat16_the_gradients_have_its_format() -> None:
    packed, generator = ROWS["ragged"], torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(h, packed.tokens, 8, generator=generator).to(torch.bfloat16) for h in (4, 2, 2))
    given = [q.float().requires_grad_(), k.float().requires_grad_(), v.requires_grad_()]
    out = in_pieces(
        *given, packed.pieces(0), scale=0.25, window=0
    )  # wider queries and keys, as under autocast
    exact = plainly(*(x.double() for x in (q, k, v)), packed, 0.25, 0)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 0.05
    grads = torch.autograd.grad(out, given, torch.ones_like(out))
    assert [g.dtype for g in grads] == [torch.float32, torch.float32, torch.bfloat16]
