"""Gradient checkpointing: the same values and gradients, and layers that really are computed twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import make
from refine_rl.envs.play import sample
from refine_rl.errors import UserError
from refine_rl.policy import load
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.policy.recompute import recompute_layers
from refine_rl.policy.tokens import TokenBatch, token_batch
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
Calculated = tuple[torch.Tensor, dict[str, torch.Tensor | None]]
WINDOW = {"mistral": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6}}


def policy_of(make_model: MakeModel, kind: str, *, recompute: bool, **changes: Any) -> Policy:
    settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", "rank": 4, **changes}
    folder = make_model(kind, **WINDOW.get(kind, {}))
    policy = load_policy(ModelSettings(name=str(folder), gradient_checkpointing=recompute, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


def batch() -> TokenBatch:
    """Two groups of uneven prompts and completions, one of each of a single token."""
    rows = []
    for p, (prompt, lengths) in enumerate([((7,), (4, 1)), (tuple(range(30, 53)), (8, 3, 2))]):
        for member, n in enumerate(lengths):
            said = range(60, 60 + n)
            rows.append(make.trajectory(f"p{p}", member=member, given=prompt, tokens=said, stop="length"))
    return token_batch(rows)


def calculated(policy: Policy, function: Callable[..., torch.Tensor], rate: float = 0.0) -> Calculated:
    """Log-probs, and the gradient of a weighted sum of them."""
    tokens = batch()
    weights = torch.randn(tokens.ids.shape, generator=torch.Generator().manual_seed(2))
    with policy.dropout(rate, seed=3):
        values = function(policy, tokens, temperature=0.7)
        (values * weights).sum().backward()
    return values.detach(), {n: p.grad for n, p in policy.trainable().items()}


def same(a: Calculated, b: Calculated) -> None:
    assert torch.equal(a[0], b[0])
    assert a[1].keys() == b[1].keys()
    for name, gradient in a[1].items():
        other = b[1][name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or other is None or torch.equal(gradient, other), name


@pytest.mark.parametrize("function", [logprobs, plain_logprobs], ids=["packed", "plain"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_values_and_gradients_are_the_same_to_the_bit(
    make_model: MakeModel, kind: str, adapter: str, function: Callable[..., torch.Tensor]
) -> None:
    policies = [policy_of(make_model, kind, recompute=on, adapter=adapter) for on in (False, True)]
    assert policies[1].fast is not None, policies[1].why_plain
    plain, again = (calculated(p, function) for p in policies)
    same(plain, again)
    assert any(g is not None and g.abs().max() > 0 for g in plain[1].values())


def test_dropout_draws_the_same_again(make_model: MakeModel) -> None:
    plain, again = (
        calculated(policy_of(make_model, "qwen3", recompute=on, dropout=0.3), logprobs, rate=0.3)
        for on in (False, True)
    )
    same(plain, again)
    without = calculated(policy_of(make_model, "qwen3", recompute=True, dropout=0.3), logprobs)
    assert not torch.equal(without[0], again[0])


def test_the_same_in_bfloat16(make_model: MakeModel) -> None:
    """Weights in float32 under autocast, which has to be on again when a layer is."""
    plain, again = (
        calculated(policy_of(make_model, "llama", recompute=on, adapter="none", dtype="bfloat16"), logprobs)
        for on in (False, True)
    )
    same(plain, again)


@pytest.mark.parametrize("recompute", [False, True])
def test_each_layer_is_computed_again_on_the_way_back_and_only_there(
    make_model: MakeModel, recompute: bool
) -> None:
    policy = policy_of(make_model, "qwen3", recompute=recompute)
    assert policy.fast is not None
    passes = []
    for name, module in policy.model.named_modules():
        if name.endswith("q_proj"):
            module.register_forward_hook(lambda *_, name=name: passes.append(name))
    values = logprobs(policy, batch())
    assert len(passes) == 2
    values.sum().backward()
    assert len(passes) == (4 if recompute else 2)
    assert set(passes[:2]) == set(passes[2:] or passes)
    passes.clear()
    with torch.no_grad():
        logprobs(policy, batch())
    assert len(passes) == 2
    assert not any(m.training for m in policy.model.modules())


def test_less_is_kept_for_the_way_back(make_model: MakeModel) -> None:
    kept = []
    for on in (False, True):
        policy = policy_of(make_model, "qwen3", recompute=on)
        assert policy.fast is not None
        sizes: dict[int, int] = {}  # by place in memory: the same tensor is often kept twice

        def count(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            logprobs(policy, batch())
        kept.append(sum(sizes.values()))
    assert kept[1] < kept[0] / 2


def test_sampling_is_untouched(make_model: MakeModel) -> None:
    prompts = [make.prompt("p", "say cat")]
    purpose = Purpose(seed=0, step=0, name="test")
    with_it, without = (
        sample(
            policy_of(make_model, "llama", recompute=on),
            prompts,
            members=3,
            sampling=Sampling(max_tokens=6, temperature=1.0),
            purpose=purpose,
        )
        for on in (True, False)
    )
    assert with_it == without


def test_what_is_saved_is_an_ordinary_model(make_model: MakeModel, tmp_path: Path) -> None:
    policy = policy_of(make_model, "llama", recompute=True)
    policy.save_merged(tmp_path / "merged")
    merged = load_policy(ModelSettings(name=str(tmp_path / "merged"), dtype="float32", device="cpu"))
    with torch.no_grad():
        assert (logprobs(merged, batch()) - logprobs(policy, batch())).abs().max() < 1e-4


def test_an_architecture_without_such_layers_is_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "recompute_layers", lambda model: 0)
    with pytest.raises(UserError, match=r"gradient_checkpointing = true: .*tokens_per_micro_batch"):
        policy_of(make_model, "llama", recompute=True)
    assert recompute_layers(torch.nn.Linear(2, 2)) == 0
