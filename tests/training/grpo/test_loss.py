"""The losses: by hand, against a slow plain twin, and split over micro-batches."""

from __future__ import annotations

import math

import pytest
import torch

from refine_rl.training.grpo.loss import policy_loss, row_weights

LOSSES = ["grpo", "bnpo", "dapo", "dr_grpo", "gspo", "cispo", "sapo", "luspo", "dppo_tv", "dppo_kl"]


def test_row_weights_by_hand() -> None:
    lengths = [1, 3, 4]
    assert row_weights("grpo", lengths, max_tokens=10) == [1 / 3, 1 / 9, 1 / 12]
    assert row_weights("dapo", lengths, max_tokens=10) == [1 / 8] * 3
    assert row_weights("dr_grpo", lengths, max_tokens=10) == [1 / 30] * 3
    assert row_weights("gspo", lengths, max_tokens=10) == [1 / 3, 1 / 9, 1 / 12]
    assert row_weights("sapo", lengths, max_tokens=10) == [1 / 3, 1 / 9, 1 / 12]
    assert row_weights("cispo", lengths, max_tokens=10) == [1 / 8] * 3
    assert row_weights("bnpo", lengths, max_tokens=10) == [1 / 8] * 3
    assert row_weights("luspo", lengths, max_tokens=10) == [1 / 3] * 3
    assert row_weights("dppo_tv", lengths, max_tokens=10) == [1 / 8] * 3
    assert row_weights("dppo_kl", lengths, max_tokens=10) == [1 / 8] * 3
    with pytest.raises(ValueError, match="unknown loss"):
        row_weights("ppo", lengths, max_tokens=10)


def one_token(
    ratio: float, advantage: float, *, loss: str = "grpo", low: float = 0.2, high: float = 0.3
) -> tuple[float, float, int]:
    """Loss, its gradient by the log-prob, and clipped tokens, of one token with weight 1; its log-prob was
    0 when it was sampled."""
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    sums = policy_loss(
        new,
        torch.zeros(1, 1),
        torch.tensor([advantage]),
        torch.ones(1),
        torch.ones(1, 1, dtype=torch.bool),
        loss=loss,
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


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dapo", "dr_grpo", "gspo"])
def test_a_row_of_one_token_is_clipped_alike(loss: str) -> None:
    for ratio in (0.5, 0.9, 1.1, 1.5):
        for advantage in (-1.0, 1.0):
            assert one_token(ratio, advantage, loss=loss) == pytest.approx(one_token(ratio, advantage))


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight", "cut"),
    [
        (1.0, 2.0, 1.0, 0),
        (1.1, -1.0, 1.1, 0),
        (1.5, 1.0, 1.3, 1),  # cut, but the gradient stays
        (1.5, -1.0, 1.3, 1),
        (0.5, 1.0, 0.8, 1),
        (0.5, -1.0, 0.8, 1),
    ],
)
def test_cispo_by_hand(ratio: float, advantage: float, weight: float, cut: int) -> None:
    # Loss -w A log pi, gradient -w A.
    expected = (-weight * advantage * math.log(ratio), -weight * advantage, cut)
    assert one_token(ratio, advantage, loss="cispo") == pytest.approx(expected)


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.0), (-2.0, 1.05)])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.7])
def test_sapo_by_hand(advantage: float, tau: float, ratio: float) -> None:
    s = 1 / (1 + math.exp(-tau * (ratio - 1)))
    # d/dr of (4 / tau) s is 4 s (1 - s), which is 1 at r = 1; times dr/dlog pi = r.
    expected = (-4 / tau * s * advantage, -4 * s * (1 - s) * ratio * advantage, 0)
    assert one_token(ratio, advantage, loss="sapo") == pytest.approx(expected)
    if ratio == 1.0:
        assert expected[1] == pytest.approx(-advantage)


def masked(
    before: float, now: float, advantage: float, *, loss: str, low: float = 0.1, high: float = 0.2
) -> tuple[float, float, int]:
    """`one_token`, for a token of probability `before` when it was sampled and `now`."""
    new = torch.tensor([[math.log(now)]], requires_grad=True)
    sums = policy_loss(
        new,
        torch.tensor([[math.log(before)]]),
        torch.tensor([advantage]),
        torch.ones(1),
        torch.ones(1, 1, dtype=torch.bool),
        loss=loss,
        clip_low=low,
        clip_high=high,
    )
    sums.loss.backward()
    assert new.grad is not None
    return sums.loss.item(), new.grad.item(), sums.clipped_tokens


@pytest.mark.parametrize(
    ("before", "now", "advantage", "weight", "cut"),
    [
        (0.5, 0.69, 2.0, 1.38, 0),  # good, 0.19 more: within
        (0.5, 0.71, 2.0, 0.0, 1),  # 0.21 more: left alone
        (0.5, 0.2, 2.0, 0.4, 0),  # good, and rarer: it may come back
        (0.5, 0.41, -1.0, 0.82, 0),  # bad, 0.09 less: within
        (0.5, 0.39, -1.0, 0.0, 1),
        (0.5, 0.9, -1.0, 1.8, 0),  # bad, and more frequent: it may go back
        (0.01, 0.1, 1.0, 10.0, 0),  # ten times as likely, and hardly any mass: where a ratio's clip acts
        (0.001, 0.1, 1.0, 20.0, 1),  # its weight is cut
        (0.95, 0.8, -1.0, 0.0, 1),  # a ratio of 0.84, and much mass: where a ratio's clip does not act
    ],
)
def test_the_mask_of_dppo_by_hand(
    before: float, now: float, advantage: float, weight: float, cut: int
) -> None:
    expected = (-weight * advantage * math.log(now), -weight * advantage, cut)
    assert masked(before, now, advantage, loss="dppo_tv") == pytest.approx(expected)


@pytest.mark.parametrize(("before", "now"), [(0.5, 0.8), (0.3, 0.05), (0.02, 0.2), (0.6, 0.55), (0.2, 1.0)])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_divergence_of_dppo_kl_by_hand(before: float, now: float, advantage: float) -> None:
    """A threshold just above the divergence lets through what one just below it masks."""
    rest = math.log((1 - before) / (1 - now)) if now < 1 else math.log(0.8e8)
    kl = before * math.log(before / now) + (1 - before) * rest
    assert kl > 0
    away = (now > before) == (advantage > 0)
    wide, narrow = (
        masked(before, now, advantage, loss="dppo_kl", low=kl * f, high=kl * f) for f in (1.001, 0.999)
    )
    assert wide[1:] == (pytest.approx(-advantage * now / before), 0)
    assert narrow == ((0.0, 0.0, 1) if away else wide)
    # Each side has its own threshold.
    loose = {"low": kl / 2, "high": 2 * kl} if advantage > 0 else {"low": 2 * kl, "high": kl / 2}
    assert masked(before, now, advantage, loss="dppo_kl", **loose) == wide


def test_gspo_by_hand() -> None:
    """Two rows of two and one tokens; the third place of row 0 and the rest of row 1 are not sampled."""
    logs = torch.tensor([[math.log(2.0), math.log(0.5), 9.0], [math.log(1.2), 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])

    def run(advantages: list[float], low: float, high: float) -> tuple[float, list[list[float]], int]:
        new = logs.clone().requires_grad_()
        sums = policy_loss(
            new,
            torch.zeros(2, 3),
            torch.tensor(advantages),
            torch.tensor(row_weights("gspo", [2, 1], max_tokens=3)),
            mask,
            loss="gspo",
            clip_low=low,
            clip_high=high,
        )
        sums.loss.backward()
        assert new.grad is not None
        return sums.loss.item(), new.grad.tolist(), sums.clipped_tokens

    # s_0 = sqrt(2 * 0.5) = 1, s_1 = 1.2: each row's s A, over 2 rows; ds/dlog pi_t = s / length.
    loss, gradient, cut = run([3.0, 1.0], 0.3, 0.3)
    assert loss == pytest.approx(-(1.0 * 3 + 1.2 * 1) / 2)
    assert gradient[0] == pytest.approx([-0.75, -0.75, 0.0])  # token ratios of 2 and 0.5: not clipped
    assert gradient[1] == pytest.approx([-0.6, 0.0, 0.0])
    assert cut == 0
    loss, gradient, cut = run([3.0, 1.0], 0.1, 0.1)
    assert loss == pytest.approx(-(1.0 * 3 + 1.1 * 1) / 2)
    assert gradient[1] == [0.0, 0.0, 0.0]  # 1.2 > 1.1: the whole row
    assert cut == 1


def test_an_importance_weight_scales_the_policy_term_alone() -> None:
    x = random_inputs(3)
    weights = torch.full((4,), 0.25)
    importance = torch.rand(4, 5, generator=torch.Generator().manual_seed(9)) + 0.5

    def run(kl: float, importance: torch.Tensor | None) -> torch.Tensor:
        new = x["logprobs"].clone().requires_grad_()
        policy_loss(
            new,
            x["old"],
            x["advantages"],
            weights,
            x["mask"],
            clip_low=0.2,
            clip_high=0.2,
            reference_B_T=x["reference"],
            kl=kl,
            importance_B_T=importance,
        ).loss.backward()
        assert new.grad is not None
        return new.grad

    policy, penalty = run(0.0, None), run(0.5, None) - run(0.0, None)
    torch.testing.assert_close(run(0.5, importance), policy * importance + penalty)


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


@pytest.mark.parametrize("loss", LOSSES)
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
            loss=loss,
            clip_low=0.2,
            clip_high=0.2,
        ).loss.item()

    assert loss_of(slice(0, 4)) == pytest.approx(loss_of(slice(0, 1)) + loss_of(slice(1, 4)), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_outside_the_mask_has_an_influence(loss: str) -> None:
    x = random_inputs(2)
    weights = torch.full((4,), 0.25)

    def run(fill: float) -> tuple[float, torch.Tensor]:
        new = torch.where(x["mask"], x["logprobs"], fill).requires_grad_()
        sums = policy_loss(
            new, x["old"], x["advantages"], weights, x["mask"], loss=loss, clip_low=0.2, clip_high=0.2
        )
        sums.loss.backward()
        assert new.grad is not None
        return sums.loss.item(), new.grad

    loss_a, grad_a = run(0.0)
    loss_b, grad_b = run(-50.0)
    assert loss_a == loss_b
    assert torch.equal(grad_a, grad_b)
    assert not grad_a[~x["mask"]].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_on_policy_all_losses_have_the_gradient_of_reinforce(loss: str) -> None:
    """With r = 1 everywhere: -w A for every sampled token, whatever the clip."""
    x = random_inputs(4)
    weights = torch.tensor(row_weights(loss, x["mask"].sum(1).tolist(), max_tokens=9))
    new = x["old"].clone().requires_grad_()
    policy_loss(
        new, x["old"], x["advantages"], weights, x["mask"], loss=loss, clip_low=1e-4, clip_high=1e-4
    ).loss.backward()
    expected = torch.where(x["mask"], -(weights * x["advantages"])[:, None], 0.0)
    torch.testing.assert_close(new.grad, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_without_advantage_has_no_gradient(loss: str) -> None:
    x = random_inputs(5)
    new = x["logprobs"].clone().requires_grad_()
    policy_loss(
        new, x["old"], torch.zeros(4), torch.ones(4), x["mask"], loss=loss, clip_low=0.2, clip_high=0.2
    ).loss.backward()
    assert new.grad is not None
    assert not new.grad.any()
