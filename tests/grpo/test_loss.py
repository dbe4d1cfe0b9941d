"""The losses: by hand, against a slow plain twin, and split over micro-batches."""

from __future__ import annotations

import math

import pytest
import torch

from refine_rl.grpo.loss import kl_terms, policy_loss, row_weights


def test_row_weights_by_hand() -> None:
    lengths = [1, 3, 4]
    assert row_weights("grpo", lengths, max_tokens=10) == [1 / 3, 1 / 9, 1 / 12]
    assert row_weights("dapo", lengths, max_tokens=10) == [1 / 8] * 3
    assert row_weights("dr_grpo", lengths, max_tokens=10) == [1 / 30] * 3
    with pytest.raises(ValueError, match="unknown loss"):
        row_weights("ppo", lengths, max_tokens=10)


def test_kl_estimators_by_hand() -> None:
    # log pi = log 0.5, log reference = log 0.25: d = -log 2.
    pi, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_terms(pi, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl_terms(pi, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_terms(pi, reference, "k3").item() == pytest.approx(0.5 + math.log(2) - 1)


def test_k1_and_k3_are_unbiased_and_k2_is_close() -> None:
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    exact = float((p * (p / q).log()).sum())
    assert float((p * kl_terms(p.log(), q.log(), "k1")).sum()) == pytest.approx(exact, abs=1e-7)
    assert float((p * kl_terms(p.log(), q.log(), "k3")).sum()) == pytest.approx(exact, abs=1e-7)
    assert float((p * kl_terms(p.log(), q.log(), "k2")).sum()) == pytest.approx(exact, rel=0.2)


def one_token(
    ratio: float, advantage: float, *, low: float = 0.2, high: float = 0.3
) -> tuple[float, float, int]:
    """Loss, its gradient by the log-prob, and clipped tokens, of one token with weight 1."""
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    sums = policy_loss(
        new,
        torch.zeros(1, 1),
        torch.tensor([advantage]),
        torch.ones(1),
        torch.ones(1, 1, dtype=torch.bool),
        clip_low=low,
        clip_high=high,
    )
    sums.loss.backward()
    assert new.grad is not None
    return sums.loss.item(), new.grad.item(), sums.clipped_tokens


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on policy: minus the advantage
        (1.1, 1.0, -1.1, -1.1, 0),
        (1.5, 1.0, -1.3, 0.0, 1),  # too likely already: the upper clip holds it
        (1.5, -1.0, 1.5, 1.5, 0),  # too likely and bad: not clipped
        (0.5, 1.0, -0.5, -0.5, 0),  # too unlikely and good: not clipped
        (0.5, -1.0, 0.8, 0.0, 1),  # too unlikely already: the lower clip holds it
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: int) -> None:
    assert one_token(ratio, advantage) == (pytest.approx(loss), pytest.approx(gradient), clipped)


def random_inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3, 5, 1, 4])
    mask = torch.arange(5)[None, :] < lengths[:, None]
    old = -torch.rand(4, 5, generator=generator)
    return {
        "logprobs": torch.where(mask, old + 0.4 * torch.randn(4, 5, generator=generator), 7.0),
        "old": torch.where(mask, old, -3.0),
        "reference": torch.where(mask, old + 0.4 * torch.randn(4, 5, generator=generator), 1.0),
        "advantages": torch.randn(4, generator=generator),
        "mask": mask,
    }


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_against_a_slow_plain_twin(loss: str, estimator: str) -> None:
    x = random_inputs()
    lengths = x["mask"].sum(1).tolist()
    weights = row_weights(loss, lengths, max_tokens=9)
    fast = policy_loss(
        x["logprobs"],
        x["old"],
        x["advantages"],
        torch.tensor(weights),
        x["mask"],
        clip_low=0.1,
        clip_high=0.3,
        reference_B_T=x["reference"],
        kl=0.7,
        kl_estimator=estimator,
    )

    rows = []
    for b, n in enumerate(lengths):
        total = 0.0
        for t in range(n):
            new, old, ref = (float(x[k][b, t]) for k in ("logprobs", "old", "reference"))
            a = float(x["advantages"][b])
            r = math.exp(new - old)
            surrogate = min(r * a, min(max(r, 0.9), 1.3) * a)
            d = ref - new
            kl = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[estimator]
            total += -(surrogate - 0.7 * kl)
        rows.append(total)
    if loss == "grpo":
        slow = sum(r / n for r, n in zip(rows, lengths, strict=True)) / 4
    elif loss == "dapo":
        slow = sum(rows) / sum(lengths)
    else:
        slow = sum(rows) / (4 * 9)
    assert fast.loss.item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_the_sum_may_be_split_at_will(loss: str) -> None:
    x = random_inputs(1)
    weights = torch.tensor(row_weights(loss, x["mask"].sum(1).tolist(), max_tokens=9))

    def loss_of(rows: slice) -> float:
        return policy_loss(
            x["logprobs"][rows],
            x["old"][rows],
            x["advantages"][rows],
            weights[rows],
            x["mask"][rows],
            clip_low=0.2,
            clip_high=0.2,
        ).loss.item()

    assert loss_of(slice(0, 4)) == pytest.approx(loss_of(slice(0, 1)) + loss_of(slice(1, 4)), rel=1e-5)


def test_nothing_outside_the_mask_has_an_influence() -> None:
    x = random_inputs(2)
    weights = torch.full((4,), 0.25)

    def run(fill: float) -> tuple[float, torch.Tensor]:
        new = torch.where(x["mask"], x["logprobs"], fill).requires_grad_()
        sums = policy_loss(new, x["old"], x["advantages"], weights, x["mask"], clip_low=0.2, clip_high=0.2)
        sums.loss.backward()
        assert new.grad is not None
        return sums.loss.item(), new.grad

    loss_a, grad_a = run(0.0)
    loss_b, grad_b = run(-50.0)
    assert loss_a == loss_b
    assert torch.equal(grad_a, grad_b)
    assert not grad_a[~x["mask"]].any()
