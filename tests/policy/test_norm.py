"""The lean RMSNorm against the one that it takes the place of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from refine_rl.policy.norm import lean_norms

MakeModel = Callable[..., Path]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_norms(eps: float, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    plain = Qwen3RMSNorm(24, eps=eps)
    plain.weight.data = normal(24, seed=1)
    lean = copy.deepcopy(plain)
    assert lean_norms(lean) == 1
    return plain.to(dtype), lean.to(dtype)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 4, 24), (1, 24)])
def test_value_and_gradient_are_those_of_the_plain_norm(shape: tuple[int, ...], eps: float) -> None:
    found = []
    for norm in two_norms(eps, torch.float32):
        x = normal(*shape).requires_grad_()
        y = norm(x)
        found.append([y.detach(), *torch.autograd.grad((y * normal(*shape, seed=2)).sum(), [x, norm.weight])])
        with torch.no_grad():
            assert torch.equal(norm(x), y)
    for mine, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, plain, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_in_bfloat16_it_rounds_where_the_plain_norm_rounds(frozen: bool) -> None:
    found = []
    for norm in two_norms(1e-6, torch.bfloat16):
        norm.weight.requires_grad_(not frozen)
        x = normal(40, 24).to(torch.bfloat16).requires_grad_()
        y = norm(x)
        inputs = [x] if frozen else [x, norm.weight]
        found.append([y.detach(), *torch.autograd.grad((y * normal(40, 24, seed=2)).sum(), inputs)])
    assert found[1][0].dtype == torch.bfloat16
    assert (found[1][0] != found[0][0]).float().mean() < 0.01  # the last bit of a few
    for mine, plain in zip(found[1][1:], found[0][1:], strict=True):
        torch.testing.assert_close(mine, plain, atol=0.05, rtol=0.03)


def test_under_autocast_the_result_has_the_plain_format() -> None:
    plain, lean = two_norms(1e-6, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for x in (normal(3, 24), normal(3, 24).to(torch.bfloat16)):
            assert lean(x).dtype == plain(x).dtype
            torch.testing.assert_close(lean(x), plain(x), atol=1e-6, rtol=1e-5)


def test_a_norm_of_another_formula_stays() -> None:
    gemma = Gemma3RMSNorm(24)  # its weight counts from 1
    gemma.weight.data = normal(24)
    before = type(gemma)
    assert lean_norms(gemma) == 0
    assert type(gemma) is before
    assert torch.equal(gemma.weight.data, normal(24))


def test_a_copy_has_its_own_weight_and_twice_is_once() -> None:
    _, lean = two_norms(1e-6, torch.float32)
    copied = copy.deepcopy(lean)
    copied.weight.data.zero_()
    assert lean(normal(2, 24)).abs().sum() > 0
    assert copied(normal(2, 24)).abs().sum() == 0
    assert lean_norms(lean) == 0


def test_a_whole_model_computes_the_same(make_model: MakeModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model("qwen3")).eval()
    ids = torch.arange(12)[None]
    want = model(ids).logits
    assert lean_norms(model) > 4
    torch.testing.assert_close(model(ids).logits, want, atol=1e-5, rtol=1e-5)
