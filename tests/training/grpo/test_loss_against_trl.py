"""Loss and gradient against TRL's own code, on the same numbers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refine_rl.training.grpo.advantages import leave_one_out, zscore
from refine_rl.training.grpo.loss import policy_loss, row_weights
from refine_rl.training.grpo.teacher import token_advantages

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


def trl_loss(
    trainer: Any,
    x: dict[str, torch.Tensor],
    loss: str,
    kl: float,
    clips: tuple[float, float],
    importance: torch.Tensor | None = None,
) -> tuple[float, torch.Tensor]:
    """Value and gradient of TRL's loss, all rows in one local batch."""
    new = x["new"].clone().requires_grad_()
    low, high = clips
    itself = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda t: t, gather_for_metrics=lambda t: t, reduce=lambda t, reduction: t
        ),
        args=SimpleNamespace(
            delta=None,
            use_bias_correction_kl=False,
            steps_per_generation=1,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        beta=kl,
        epsilon_low=low,
        epsilon_high=1 + high if loss == "cispo" else high,  # there it is the bound itself
        importance_sampling_level="sequence" if loss in ("gspo", "luspo") else "token",
        loss_type="grpo" if loss == "gspo" else loss,
        max_completion_length=MAX_TOKENS,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=importance is not None,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    inputs = {
        "prompt_ids": torch.zeros(len(new), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(new), 1, dtype=torch.long),
        "completion_ids": torch.zeros(new.shape, dtype=torch.long),
        "completion_mask": x["mask"].long(),
        "advantages": x["advantages"],
        "old_per_token_logps": x["old"],
        "ref_per_token_logps": x["reference"],
        "num_items_in_batch": x["mask"].sum(),
        "importance_sampling_ratio": importance,
    }
    value = trainer._compute_loss(itself, None, inputs)
    value.backward()
    assert new.grad is not None
    return value.item(), new.grad


LOSSES = ["grpo", "bnpo", "dapo", "dr_grpo", "gspo", "cispo", "sapo", "luspo"]
CLIPS = {
    "gspo": (0.02, 0.03),
    "luspo": (0.02, 0.03),
    "cispo": (1.0, 0.3),
}  # such that the numbers here do reach them


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_agree(grpo_trainer: Any, loss: str, kl: float, weighted: bool, seed: int) -> None:
    x = numbers(seed)
    clips = CLIPS.get(loss, (0.2, 0.28))
    importance = torch.exp(x["old"] - x["reference"]).clamp(max=1.2) if weighted else None
    new = x["new"].clone().requires_grad_()
    ours = policy_loss(
        new,
        x["old"],
        x["advantages"],
        torch.tensor(row_weights(loss, x["mask"].sum(1).tolist(), max_tokens=MAX_TOKENS)),
        x["mask"],
        loss=loss,
        clip_low=clips[0],
        clip_high=clips[1],
        reference_B_T=x["reference"],
        kl=kl,
        kl_estimator="k3",
        importance_B_T=importance,
    )
    ours.loss.backward()
    value, gradient = trl_loss(grpo_trainer, x, loss, kl, clips, importance)
    assert (ours.clipped_tokens > 0) == (loss != "sapo")  # the numbers do reach the clip
    assert ours.loss.item() == pytest.approx(value, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(new.grad, gradient, rtol=1e-5, atol=1e-8)


def test_bnpo_is_theirs_in_one_local_batch_alone(grpo_trainer: Any) -> None:
    """TRL cuts a step into local batches and takes the mean of their means; ours does not depend on that."""
    x = numbers(0)
    weights = row_weights("bnpo", x["mask"].sum(1).tolist(), max_tokens=MAX_TOKENS)
    assert weights == row_weights("dapo", x["mask"].sum(1).tolist(), max_tokens=MAX_TOKENS)
    halves = [{name: value[rows] for name, value in x.items()} for rows in (slice(0, 3), slice(3, 6))]
    whole, _ = trl_loss(grpo_trainer, x, "bnpo", 0.0, (0.2, 0.28))
    parts = [trl_loss(grpo_trainer, half, "bnpo", 0.0, (0.2, 0.28))[0] for half in halves]
    tokens = [int(half["mask"].sum()) for half in halves]
    assert sum(parts) / 2 != pytest.approx(whole, rel=1e-3)
    mean = sum(p * n for p, n in zip(parts, tokens, strict=True)) / sum(tokens)
    assert mean == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("size", [2, 5])
def test_leave_one_out_is_theirs(size: int) -> None:
    """RLOOTrainer's baseline: (sum of the group - own reward) / (G - 1)."""
    rewards = torch.rand(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    theirs = rewards - (rewards.sum() - rewards) / (size - 1)
    assert list(leave_one_out(rewards.tolist())) == pytest.approx(theirs.tolist(), rel=1e-12)


def test_our_default_advantage_is_theirs() -> None:
    x = numbers(3)
    grouped = x["rewards"].view(2, 3)
    theirs = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(x["advantages"], theirs.flatten(), rtol=1e-5, atol=1e-6)


def test_a_teacher_teaches_as_trls_loss_of_sampled_tokens(grpo_trainer: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.sdpo.loss_utils import compute_sampled_token_self_distillation_loss
    student, teacher = (torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    ids = torch.tensor([[3, 0, 6, 2, 2]])
    student.requires_grad_()
    theirs = compute_sampled_token_self_distillation_loss(student, teacher, ids, distillation_alpha=1.0)
    (slopes,) = torch.autograd.grad(theirs.sum(), student)
    new, taught = (x.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1) for x in (student, teacher))
    ours = policy_loss(
        new,
        new.detach(),
        torch.zeros(1),
        torch.ones(1),
        torch.ones(1, 5, dtype=torch.bool),
        clip_low=0.2,
        clip_high=0.2,
        token_advantages_B_T=token_advantages(torch.zeros(1), taught.detach(), new.detach(), 1.0),
    )
    (own,) = torch.autograd.grad(ours.loss, student)
    assert torch.allclose(own, slopes, atol=1e-6)
