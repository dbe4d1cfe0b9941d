"""On-policy distillation: its advantage by enumeration, the teacher in this process, what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from make import group, metrics, prompt, trajectory
from refine_rl.errors import GuardStop, UserError
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.same_tokens import require_same_tokens
from refine_rl.policy.tokens import token_batch
from refine_rl.rewards.build import build_reward
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training.grpo.learn import Loss
from refine_rl.training.grpo.loss import policy_loss
from refine_rl.training.grpo.statistics import group_statistics
from refine_rl.training.grpo.teacher import Lessons, LocalTeacher, token_advantages
from refine_rl.training.guards import Guards, at_the_top
from refine_rl.training.rows import micro_batch
from refine_rl.types import Taught

MakeModel = Callable[..., Path]
TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "dppo_tv", "dppo_kl")


def loss_of_token(name: str, new: torch.Tensor, old: float, taught: float) -> torch.Tensor:
    """The loss of a row of one token, [1, 1] log-probs."""
    old_B_T = torch.tensor([[old]])
    return policy_loss(
        new,
        old_B_T,
        torch.tensor([7.0]),  # a reward's advantage, of which the teacher leaves nothing
        torch.tensor([1.0]),
        torch.tensor([[True]]),
        loss=name,
        clip_low=0.2,
        clip_high=0.2,
        token_advantages_B_T=token_advantages(torch.tensor([7.0]), torch.tensor([[taught]]), old_B_T, 1.0),
    ).loss


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_the_expected_gradient_is_that_of_the_reverse_kl(name: str) -> None:
    scores = torch.tensor([0.3, -1.0, 0.8, 0.0], requires_grad=True)
    teacher = torch.tensor([1.0, 0.2, -0.5, 0.1]).log_softmax(0)
    mu = scores.detach().log_softmax(0)
    found = torch.zeros(4)
    for token in range(4):  # each as often as the policy writes it
        new = scores.log_softmax(0)[token].reshape(1, 1)
        loss = loss_of_token(name, new, float(mu[token]), float(teacher[token]))
        found += mu[token].exp() * torch.autograd.grad(loss, scores)[0]
    policy = scores.log_softmax(0)
    kl = (policy.exp() * (policy - teacher)).sum()
    assert torch.allclose(found, torch.autograd.grad(kl, scores)[0], atol=1e-6)
    expected = sum(float(mu[t].exp()) * float(teacher[t] - mu[t]) for t in range(4))
    assert expected == pytest.approx(-kl.item(), abs=1e-6)


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_a_teacher_that_is_the_policy_teaches_nothing(name: str) -> None:
    new = torch.tensor([[-1.25]], requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of_token(name, new, -1.25, -1.25), new)
    assert slope.item() == 0.0


def test_rows_keep_a_member_without_an_advantage_and_share_with_rewards() -> None:
    p = prompt()
    members = [
        trajectory(p, member=0, tokens=2, logprob=-1.0),
        trajectory(p, member=1, tokens=1, logprob=-2.0),
    ]
    taught = (Taught(logprobs=(-0.5, -3.0)), Taught(logprobs=(-2.0,)))
    plain = group(p, 1.0, None, trajectories=members, advantages=(0.5, None))
    it = group(p, 1.0, None, trajectories=members, advantages=(0.5, None), taught=taught)
    how = Loss(name="dapo", clip_low=0.2, clip_high=0.2, max_tokens=8, teacher_share=0.25)
    assert [r.trajectory.member for r in how.rows([plain])] == [0]
    rows = how.rows([it])
    assert [(r.trajectory.member, r.advantage, r.teaches) for r in rows] == [(0, 0.5, True), (1, 0.0, True)]
    batch = micro_batch(rows, torch.device("cpu"))
    new = batch.old_B_T.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(how.objective(0.0)(new, batch, None).loss, new)
    # -A / 3 of the three tokens, A = 0.75 * 0.5 + 0.25 * (log p - log mu)
    assert -3 * slopes[batch.tokens.sampled] == pytest.approx(torch.tensor([0.5, -0.125, 0.0]))
    assert group_statistics([it])["teacher_kl"] == pytest.approx((-0.5 + 2.0 + 0.0) / 3)
    assert group_statistics([plain])["teacher_kl"] is None


def policy_of(folder: Path) -> Policy:
    return load_policy(ModelSettings(name=str(folder), dtype="float32", device="cpu", rank=1))


def test_a_local_teacher_is_asked_once_and_says_what_its_model_says(make_model: MakeModel) -> None:
    model = policy_of(make_model("qwen3"))
    p = prompt()
    # A greedy answer stands beside sampled ones as another member 0.
    said = [(0, (5, 9, 7)), (1, (6, 9, 7)), (0, (8, 9))]
    members = [trajectory(p, member=m, tokens=tokens, given=(1, 2, 3)) for m, tokens in said]
    teacher = LocalTeacher(speaker=model, tokens=64)
    (taught,) = Lessons(teacher=teacher)([(p, tuple(members), ())])
    for t, its in zip(members, taught, strict=True):
        batch = token_batch([t])
        plain = model.logprobs(batch, temperature=1.0)[batch.trainable].detach()
        assert its.logprobs == pytest.approx(plain.tolist(), abs=1e-5)
    assert teacher._known == {}
    teacher.begin(members)
    model.logprobs = None  # type: ignore[method-assign,assignment]
    assert teacher.of(members) == [its.logprobs for its in taught]  # to the bit


def test_guards_leave_a_teacher_alone() -> None:
    guards = Guards(zero_variance_patience=2)
    plain = [metrics(n, groups_zero_variance=4, components={"a": 1.0}) for n in (1, 2, 3)]
    with pytest.raises(GuardStop):
        guards.stop(plain)
    assert at_the_top(plain, {"a": 1.0})
    beside = [metrics(n, groups_zero_variance=4, components={"a": 1.0}, teacher_kl=0.2) for n in (1, 2, 3)]
    guards.stop(beside)
    assert not at_the_top(beside, {"a": 1.0})


def test_another_tokenizer_is_refused(make_model: MakeModel) -> None:
    tiny, other = policy_of(Path("tiny")), policy_of(make_model("llama"))
    require_same_tokens(other, policy_of(make_model("qwen3")))
    with pytest.raises(UserError, match=r"teacher\.model: .* do not have the same tokens .*same family"):
        require_same_tokens(other, tiny)


@pytest.mark.parametrize(
    ("table", "others", "said"),
    [
        ({"share": 0.5}, {}, "teacher.share is 0.5: the rest is for rewards"),
        ({}, {"reward": {"combine": "product"}}, "nearness to a teacher is the only one"),
        ({}, {"evaluate": {"rivals": ["prompt"]}}, "evaluate.rivals are made by a reward"),
    ],
)
def test_what_cannot_be_without_a_reward(table: Any, others: Any, said: str) -> None:
    s = Settings.model_validate({"task": "x", "teacher": {"model": "tiny", **table}, **others})
    with pytest.raises(UserError, match=said):
        build_reward(s)
