"""Importance weights in the update, against the formula written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from make import group, prompts
from refine_rl.envs.play import sample
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training.grpo.importance import weights
from refine_rl.training.grpo.learn import step_metrics
from refine_rl.training.grpo.setup import distance_of, learn_of, learner_of
from refine_rl.training.grpo.surrogates import SURROGATES
from refine_rl.training.learner import Learned
from refine_rl.training.rows import Row
from refine_rl.types import Group
from taught import learned, rows_of

MakeModel = Callable[..., Path]
PROMPTS = prompts("hi", "the cat and the dog")
CAP = 1.1


def settings(**grpo: Any) -> Settings:
    common = {"loss": "dr_grpo", "updates_per_step": 2, "max_grad_norm": 1e9, "mismatch_tolerance": 9.0}
    return Settings.model_validate({"task": "x", "grpo": {**common, **grpo}, "rollout": {"max_tokens": 6}})


def fresh(make_model: MakeModel) -> Policy:
    model = ModelSettings(name=str(make_model("qwen3")), dtype="float32", device="cpu")
    policy = load_policy(model, keep_reference=False)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += 0.03
    return policy


def groups_of(policy: Policy) -> list[Group]:
    sampled = sample(
        policy,
        PROMPTS,
        members=3,
        sampling=Sampling(max_tokens=6),
        purpose=Purpose(seed=0, step=1, name="rollout"),
    )
    return [
        group(p, 0.0, 0.0, 0.0, trajectories=t, advantages=(1.0, -0.4, -0.6))
        for p, t in zip(PROMPTS, sampled, strict=True)
    ]


def foreign(policy: Policy) -> list[Row]:
    """Rows whose sampler gave the t-th token 0.2 nats less, the same, or 0.2 more than the trainer."""
    groups = groups_of(policy)
    found = []
    for row in rows_of(groups, loss="dr_grpo", max_tokens=6):
        prompt, answer = row.trajectory.segments
        off = tuple(x + 0.2 * (t % 3 - 1) for t, x in enumerate(answer.logprobs))
        found.append(
            replace(row, trajectory=replace(row.trajectory, segments=(prompt, replace(answer, logprobs=off))))
        )
    return found


def trained(policy: Policy, batch: Sequence[Row], s: Settings) -> tuple[Learned, dict[str, torch.Tensor]]:
    # Plain SGD shows the gradient itself; its rate is set from the settings.
    sgd = torch.optim.SGD(policy.trainable().values(), lr=1.0)
    return learned(policy, batch, s, optimizer=sgd), policy.trainable()


def written_out(policy: Policy, batch: Sequence[Row], s: Settings, rate: float) -> dict[str, torch.Tensor]:
    """Two updates; p is the trainer's probability before the first."""
    start: dict[tuple[int, int], float] = {}
    for u in range(2):
        total = torch.zeros(())
        for b, row in enumerate(batch):
            prompt, answer = (x.token_ids for x in row.trajectory.segments)
            table = policy.model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            for t, token in enumerate(answer):
                new = table[len(prompt) - 1 + t, token]
                if u == 0:
                    start[b, t] = new.item()
                ratio = torch.exp(new - start[b, t])
                weight = min(float(torch.exp(torch.tensor(start[b, t] - row.old[t]))), CAP)
                clipped = ratio.clamp(1 - s.clip_low, 1 + s.clip_high)
                surrogate = torch.minimum(ratio * row.advantage, clipped * row.advantage)
                total = total - weight * surrogate / (len(batch) * 6)
        for p in policy.trainable().values():
            p.grad = None
        torch.autograd.backward(total)
        with torch.no_grad():
            for p in policy.trainable().values():
                assert p.grad is not None
                p -= rate * p.grad
    return policy.trainable()


@pytest.mark.parametrize("tokens", [1, 4096])
def test_the_weight_is_cut_and_the_ratio_counts_from_the_trainer(make_model: MakeModel, tokens: int) -> None:
    policy, twin = fresh(make_model), fresh(make_model)
    batch = foreign(policy)
    s = settings(importance_cap=CAP, learning_rate=0.5, tokens_per_micro_batch=tokens, clip_low=0.02)
    metrics, found = trained(policy, batch, s)
    expected = written_out(twin, batch, s, 0.5)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-6)
    # Some tokens of the second update lie outside the clip range; of the first, none can.
    assert metrics.clip_share is not None
    assert 0 < metrics.clip_share <= 0.5


def test_weights_are_told_before_they_are_cut(make_model: MakeModel) -> None:
    policy = fresh(make_model)
    batch = foreign(policy)
    metrics, _ = trained(policy, batch, settings(importance_cap=CAP))
    assert metrics.apart is not None
    importance = metrics.apart.exp()
    by_hand = [torch.tensor(0.2 * (1 - t % 3)).exp().item() for row in batch for t in range(len(row.old))]
    assert importance.tolist() == pytest.approx(by_hand, rel=1e-4)
    assert importance.max() > CAP


@pytest.mark.parametrize("cap", [None, CAP])
def test_only_with_a_cap_are_they_told(make_model: MakeModel, cap: float | None) -> None:
    policy = fresh(make_model)
    s = settings(importance_cap=cap)
    learner = replace(learner_of(s, policy), optimizer=torch.optim.SGD(policy.trainable().values(), lr=1.0))
    learn = learn_of(s, learner, distance_of(s, policy, lambda: ()))
    made = learn(groups_of(policy), 1)
    told = step_metrics(1, groups_of(policy), made, {"sample": 1.0}, None)
    assert (told.importance_mean is None) == (told.importance_max is None) == (cap is None)
    if cap is not None:  # the sampler was the trainer
        assert told.importance_mean == pytest.approx(1.0, abs=1e-4)
        assert told.importance_max == pytest.approx(1.0, abs=1e-4)


def test_where_sampler_and_trainer_agree_the_weight_is_one(make_model: MakeModel) -> None:
    policy, twin = fresh(make_model), fresh(make_model)
    batch = foreign(policy)
    same = []
    for row, (_, answer) in ((r, r.trajectory.segments) for r in batch):
        back = tuple(x - 0.2 * (t % 3 - 1) for t, x in enumerate(answer.logprobs))
        segments = (row.trajectory.segments[0], replace(answer, logprobs=back))
        same.append(replace(row, trajectory=replace(row.trajectory, segments=segments)))
    metrics, found = trained(policy, same, settings(importance_cap=CAP, learning_rate=0.01))
    _, plain = trained(twin, same, settings(learning_rate=0.01))
    assert metrics.apart is not None
    assert metrics.apart.exp().max().item() == pytest.approx(1.0, abs=1e-4)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


def test_a_weight_has_no_gradient() -> None:
    assert not weights(torch.zeros(2, requires_grad=True), torch.ones(2)).requires_grad


@pytest.mark.parametrize("loss", ["grpo", "gspo", "cispo", "sapo", "luspo", "dppo_tv", "dppo_kl"])
def test_the_name_of_the_loss_reaches_the_update(make_model: MakeModel, loss: str) -> None:
    """One update with ratios that are not 1, against the term of that name alone."""
    policy, twin = fresh(make_model), fresh(make_model)
    batch = foreign(policy)
    clip = {} if loss == "sapo" else {"clip_low": 0.1, "clip_high": 0.15}  # sapo has none
    s = settings(loss=loss, updates_per_step=1, learning_rate=0.5, **clip)
    _, found = trained(policy, batch, s)
    total = torch.zeros(())
    for row in batch:
        prompt, answer = (x.token_ids for x in row.trajectory.segments)
        table = twin.model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        new = table[range(len(prompt) - 1, len(prompt) - 1 + len(answer)), list(answer)][None]
        advantage, mask = torch.tensor([[row.advantage]]), torch.ones(new.shape, dtype=torch.bool)
        term, _ = SURROGATES[loss](new, torch.tensor([row.old]), advantage, mask, 0.1, 0.15)
        total = total + (term.expand(new.shape) * row.weight).sum()
    torch.autograd.backward(total)
    for name, p in twin.trainable().items():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.detach() - 0.5 * p.grad, rtol=1e-3, atol=2e-6)
