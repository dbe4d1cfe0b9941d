"""Gates and products of our own against those that they take the place of."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, silu
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from refine_rl.policy import products
from refine_rl.policy.gated import lean_gates
from refine_rl.policy.products import fast_products, times


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_has_the_value_and_the_gradients_of_the_plain_one(dtype: torch.dtype) -> None:
    plain = Qwen3MLP(Qwen3Config(hidden_size=8, intermediate_size=24)).to(dtype)
    lean = copy.deepcopy(plain)
    assert lean_gates(lean) == 1
    assert lean_gates(lean) == 0
    found = []
    for module in (plain, lean):
        x = normal(5, 8).to(dtype).requires_grad_()
        y = module(x)
        found.append([y.detach(), *torch.autograd.grad(y.sum(), [x, *module.parameters()])])
        with torch.no_grad():
            assert torch.equal(module(x), y)
    assert torch.equal(found[0][0], found[1][0])
    for mine, want in zip(found[1], found[0], strict=True):
        # Its product is rounded in another order.
        torch.testing.assert_close(mine, want, atol=1e-6 if dtype == torch.float32 else 1e-2, rtol=2e-2)


def test_a_gate_keeps_its_two_inputs_and_nothing_else() -> None:
    lean = Qwen3MLP(Qwen3Config(hidden_size=8, intermediate_size=24))
    lean_gates(lean)
    kept: list[torch.Tensor] = []
    gates = normal(5, 24).requires_grad_()
    lean.gate_proj, lean.up_proj, lean.down_proj = nn.Identity(), nn.Identity(), nn.Identity()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = lean(gates)
    assert [t.shape for t in kept] == [(5, 24), (5, 24)]
    assert torch.equal(y, silu(gates) * gates)


def test_another_activation_stays() -> None:
    other = Gemma3MLP(Gemma3TextConfig(hidden_size=8, intermediate_size=24))
    assert lean_gates(other) == 0
    assert type(other) is Gemma3MLP


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_product_has_the_value_and_the_gradients_of_torch_s(
    bias: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "LEAST", 1)
    layer = nn.Linear(16, 24, bias=bias)
    assert fast_products(layer) == 1
    layer.weight.requires_grad_(not frozen)
    x = normal(2, 7, 16).requires_grad_()
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    slopes = normal(2, 7, 24, seed=1)
    found = [
        [y, *torch.autograd.grad(y, wanted, slopes)] for y in (layer(x), linear(x, layer.weight, layer.bias))
    ]
    assert "_Linear" in type(layer(x).grad_fn).__name__
    for mine, want in zip(*found, strict=True):
        torch.testing.assert_close(mine, want, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), found[1][0], atol=1e-5, rtol=1e-5)


def test_products_of_views_and_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    product = products.dense_product
    monkeypatch.setattr(products, "dense_product", lambda *a: asked.append(1) or product(*a))
    a, b = normal(40, 30), normal(50, 30)
    exact = a.double() @ b.double().T
    for least, count in ((1, 2), (1 << 22, 0)):
        monkeypatch.setattr(products, "LEAST", least)
        asked.clear()
        gaps = normal(40, 60)[:, :30]
        for left, right in ((a, b), (a.T.contiguous().T, b.T.contiguous().T)):
            torch.testing.assert_close(times(left, right).double(), exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(times(gaps, b), gaps @ b.T)  # with gaps oneDNN is slow: not asked
        assert len(asked) == count


def test_memory_stays_unless_the_environment_says_otherwise() -> None:
    code = "from refine_rl.policy.heap import keep_memory; print(keep_memory())"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    own = {**plain, "MALLOC_ARENA_MAX": "2"}
    found = [
        subprocess.run([sys.executable, "-c", code], env=e, capture_output=True, text=True, check=True).stdout
        for e in (plain, own)
    ]
    assert found[1] == "False\n"
    if sys.platform == "linux" and "glibc" in os.confstr("CS_GNU_LIBC_VERSION"):
        assert found[0] == "True\n"
