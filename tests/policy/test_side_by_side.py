"""All prompts of a packed row at once, against one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from refine_rl.policy.causal import by_products, causal_attention
from refine_rl.policy.prefix import Packed, _blocks, pack
from refine_rl.policy.side_by_side import side_by_side, tables_of

LENGTHS = [
    ([5, 5], [[3, 3], [3, 3]]),
    ([5, 9, 7], [[3, 1, 4], [2, 6, 6], [5, 5, 5]]),
    ([6, 4], [[7], [2, 3]]),  # groups of other sizes
    ([6, 4, 5], [[], [], []]),  # prompts alone
    ([4, 6], [[5, 5], []]),
    ([7], [[1, 8, 3]]),
]


def row_of(prompts: Sequence[int], suffixes: Sequence[Sequence[int]]) -> Packed:
    return pack([[0] * n for n in prompts], [[[0] * n for n in members] for members in suffixes]).packed


@pytest.mark.parametrize("window", [0, 1, 4, 30])
@pytest.mark.parametrize(("prompts", "suffixes"), LENGTHS)
def test_values_and_gradients_are_those_of_one_after_the_other(
    prompts: list[int], suffixes: list[list[int]], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refine_rl.policy.side_by_side.WASTE", 9.0)
    packed = row_of(prompts, suffixes)
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(heads, packed.tokens, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    ]
    slopes = torch.randn(4, packed.tokens, 8, generator=generator, dtype=torch.float64)
    tables = packed.tables(torch.device("cpu"))
    assert tables is not None
    got = side_by_side(*given, tables, scale=0.3, window=window)
    want = _blocks(*given, packed, 0.3, window)[0].transpose(0, 1)
    torch.testing.assert_close(got, want)
    for mine, other in zip(
        torch.autograd.grad((got * slopes).sum(), given),
        torch.autograd.grad((want * slopes).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_what_would_be_filled_up_to_a_multiple_is_not() -> None:
    device = torch.device("cpu")
    assert tables_of([4, 40], [[2], [2]], device) is not None  # 84 places for 48 tokens
    assert tables_of([4, 4, 40], [[2], [2], [2]], device) is None  # 126 for 54


@pytest.mark.parametrize("window", [0, 3, 30])
def test_causal_attention_by_products_is_torch_s_own(window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(3, heads, 7, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    ]
    slopes = torch.randn(3, 4, 7, 8, generator=generator, dtype=torch.float64)
    found = [attend(*given, scale=0.3, window=window) for attend in (by_products, causal_attention)]
    torch.testing.assert_close(*found)
    mine, other = (torch.autograd.grad((x * slopes).sum(), given) for x in found)
    torch.testing.assert_close(mine, other)
