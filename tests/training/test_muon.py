"""Muon beside AdamW: who gets which weights, the step of each, and a checkpoint of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import listening_model
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.settings import ModelSettings
from refine_rl.training import checkpoint
from refine_rl.training.checkpoint import Position
from refine_rl.training.muon import MuonAndAdamW, muon

MakeModel = Callable[..., Path]


@pytest.fixture
def load(make_model: MakeModel) -> Callable[[str], Policy]:
    def load(kind: str) -> Policy:
        settings = ModelSettings(name=str(make_model(kind)), dtype="float32", device="cpu", adapter="none")
        return load_policy(settings)

    return load


def with_gradients(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(policy.trainable().items()):
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_matrices_are_those_of_linear_layers(load: Callable[[str], Policy]) -> None:
    for kind in ("llama", "gpt2"):
        policy = load(kind)
        inside = policy.matrices()
        assert inside.keys() < policy.trainable().keys()
        assert all(policy.trainable()[name].ndim == 2 for name in inside)
        assert not any(word in name for name in inside for word in ("embed", "wte", "wpe", "norm", "lm_head"))
    assert {name.split(".")[-2] for name in load("llama").matrices()} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


def test_t5_queries_take_smaller_steps(tmp_path: Path) -> None:
    """As they start smaller: attention does not divide by the root of the width, 8 here."""
    settings = ModelSettings(
        name=str(listening_model(tmp_path)), dtype="float32", device="cpu", adapter="none"
    )
    policy = load_policy(settings)
    scales = policy.matrices()
    assert {s for name, s in scales.items() if name.endswith(".q.weight")} == {8**-0.5}
    assert {s for name, s in scales.items() if not name.endswith(".q.weight")} == {1.0}
    assert not any("shared" in name or "relative" in name or "lm_head" in name for name in scales)
    optimizer = muon(policy)
    assert [group.get("scale") for group in optimizer.param_groups] == [8**-0.5, 1.0, None]
    queries = [policy.trainable()[name] for name, s in sorted(scales.items()) if s < 1]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in queries]


def test_a_step_is_that_of_muon_and_of_adamw(load: Callable[[str], Policy]) -> None:
    policy, twin = load("llama"), load("llama")
    both = muon(policy, weight_decay=0.1)
    inside = twin.matrices()
    parts = [
        torch.optim.Muon([p for n, p in twin.trainable().items() if n in inside], weight_decay=0.1),
        torch.optim.AdamW(
            [p for n, p in twin.trainable().items() if n not in inside], betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]
    for step in range(3):
        with_gradients(policy, step)
        with_gradients(twin, step)
        for optimizer in (both, *parts):
            for group in optimizer.param_groups:
                group["lr"] = 0.02 / (1 + step)
            optimizer.step()
    for name, parameter in policy.trainable().items():
        assert torch.equal(parameter, twin.trainable()[name]), name


def test_an_update_of_a_matrix_is_orthogonal() -> None:
    """All its singular values are alike, whatever those of the gradient are."""
    matrix = torch.nn.Parameter(torch.zeros(16, 16))
    matrix.grad = torch.diag(torch.logspace(0, -2, 16))
    optimizer = MuonAndAdamW({1.0: [matrix]}, [], weight_decay=0.0)
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    moved = torch.linalg.svdvals(matrix.detach())
    assert 0.6 < float(moved.min()) <= float(moved.max()) < 1.25


def test_a_checkpoint_goes_on_to_the_bit(load: Callable[[str], Policy], tmp_path: Path) -> None:
    policy, again = load("llama"), load("llama")
    first, second = muon(policy), muon(again)
    with_gradients(policy, 0)
    first.step()
    checkpoint.save(tmp_path, policy, first, Position(step=1))
    checkpoint.load(tmp_path, again, second)
    for each, optimizer in ((policy, first), (again, second)):
        with_gradients(each, 1)
        optimizer.step()
    for name, parameter in policy.trainable().items():
        assert torch.equal(parameter, again.trainable()[name]), name
