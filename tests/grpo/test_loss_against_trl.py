"""Loss and gradient against TRL's own code, on the same numbers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refine_rl.grpo.advantage import zscore
from refine_rl.grpo.loss import policy_loss, row_weights

MAX_TOKENS = 9


@pytest.fixture(scope="module")
def grpo_trainer() -> Any:
    pytest.importorskip("trl", reason="trl is the oracle here: pip install 'refine-rl[oracle]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about optional parts
        from trl import GRPOTrainer
    return GRPOTrainer


def numbers(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(6)[None, :] < torch.tensor([6, 2, 3, 1, 5, 4])[:, None]
    old = -2 * torch.rand(6, 6, generator=generator)
    rewards = torch.rand(6, generator=generator).tolist()
    advantages = [*zscore(rewards[:3]), *zscore(rewards[3:])]
    return {
        "old": old,
        "new": old + 0.3 * torch.randn(6, 6, generator=generator),
        "reference": old + 0.3 * torch.randn(6, 6, generator=generator),
        "advantages": torch.tensor(advantages),
        "rewards": torch.tensor(rewards),
        "mask": mask,
    }


def trl_loss(trainer: Any, x: dict[str, torch.Tensor], loss: str, kl: float) -> tuple[float, torch.Tensor]:
    new = x["new"].clone().requires_grad_()
    itself = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda t: t, gather_for_metrics=lambda t: t, reduce=lambda t, reduction: t
        ),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        beta=kl,
        epsilon_low=0.2,
        epsilon_high=0.28,
        importance_sampling_level="token",
        loss_type=loss,
        max_completion_length=MAX_TOKENS,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    inputs = {
        "prompt_ids": torch.zeros(6, 1, dtype=torch.long),
        "prompt_mask": torch.ones(6, 1, dtype=torch.long),
        "completion_ids": torch.zeros(6, 6, dtype=torch.long),
        "completion_mask": x["mask"].long(),
        "advantages": x["advantages"],
        "old_per_token_logps": x["old"],
        "ref_per_token_logps": x["reference"],
        "num_items_in_batch": x["mask"].sum(),
    }
    value = trainer._compute_loss(itself, None, inputs)
    value.backward()
    assert new.grad is not None
    return value.item(), new.grad


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_agree(grpo_trainer: Any, loss: str, kl: float, seed: int) -> None:
    x = numbers(seed)
    new = x["new"].clone().requires_grad_()
    ours = policy_loss(
        new,
        x["old"],
        x["advantages"],
        torch.tensor(row_weights(loss, x["mask"].sum(1).tolist(), max_tokens=MAX_TOKENS)),
        x["mask"],
        clip_low=0.2,
        clip_high=0.28,
        reference_B_T=x["reference"],
        kl=kl,
        kl_estimator="k3",
    )
    ours.loss.backward()
    value, gradient = trl_loss(grpo_trainer, x, loss, kl)
    assert ours.clipped_tokens > 0  # the numbers do reach the clip
    assert ours.loss.item() == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(new.grad, gradient, rtol=1e-5, atol=1e-8)


def test_our_default_advantage_is_theirs() -> None:
    x = numbers(3)
    grouped = x["rewards"].view(2, 3)
    theirs = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(x["advantages"], theirs.flatten(), rtol=1e-5, atol=1e-6)
