"""How rows become optimizer steps: exact numbers, and a plain twin on a small real model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from make import attempts, group, prompt, prompts
from refine_rl.envs.play import sample
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training.grpo.learn import Loss, Update
from refine_rl.training.grpo.loss import policy_loss
from refine_rl.training.grpo.replay import Replay
from refine_rl.training.grpo.setup import distance_of, learn_of, learner_of, loss_of, passes_of
from refine_rl.training.passes import Passes, moved_by
from refine_rl.training.rows import Row, micro_batch
from refine_rl.types import Group
from taught import learned, rows_of

PROMPTS = prompts("hi", "say something about the dog", "the cat", "dogs", "a short word")
ADVANTAGES = [(1.0, -0.5, 0.0, -0.5), (0.0, 0.0, 0.0, 0.0), (2.0, -1.0, -1.0, 0.0), (0.5, 0.5, -1.0, 0.0)]
ADVANTAGES.append((-1.0, 1.0, 0.0, 0.0))
GRPO = Loss(name="grpo", clip_low=0.2, clip_high=0.2, max_tokens=8)


def settings(**grpo: Any) -> Settings:
    rest = {name: grpo.pop(name) for name in ("model",) if name in grpo}
    grpo = {"learning_rate": 0.01, "mismatch_tolerance": 1.0, **grpo}
    return Settings.model_validate({"task": "x", "grpo": grpo, "rollout": {"max_tokens": 8}, **rest})


@pytest.fixture(scope="module")
def policy(make_model: Callable[..., Path]) -> Policy:
    model = ModelSettings(name=str(make_model("qwen3")), dtype="float32", device="cpu", rank=4)
    return load_policy(model, keep_reference=True)


@pytest.fixture
def fresh(policy: Policy) -> Any:
    """The same policy, as it was when it was loaded, also behind a test."""
    before = weights(policy)
    yield policy
    put_back(policy, before)


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in policy.trainable().items()}


@torch.no_grad()
def put_back(policy: Policy, to: dict[str, torch.Tensor]) -> None:
    for name, parameter in policy.trainable().items():
        parameter.copy_(to[name])


def groups_of(policy: Policy, step: int = 1) -> list[Group]:
    sampled = sample(
        policy,
        PROMPTS,
        members=4,
        sampling=Sampling(max_tokens=8),
        purpose=Purpose(seed=0, step=step, name="rollout"),
    )
    return [
        group(p, *[0.0] * 4, step=step, trajectories=t, advantages=a)
        for p, t, a in zip(PROMPTS, sampled, ADVANTAGES, strict=True)
    ]


def named(batches: Sequence[Sequence[Row]]) -> list[list[str]]:
    return [[row.trajectory.prompt_id for row in batch] for batch in batches]


def rows(*groups: str, then: int | None = None) -> list[Row]:
    """Two rows a group, with a token and with two: the first of a group of upper case teaches nothing."""
    return [
        Row(
            trajectory=t,
            advantage=0.0 if name.isupper() and t.member == 0 else 1.0,
            weight=0.0,
            then=then,
        )
        for name in groups
        for t in attempts(prompt(name), 1, 2)
    ]


def test_without_minibatches_a_pass_is_one_step_with_all_rows() -> None:
    some = rows("a", "B")
    batches = Passes(updates=2).batches(some, 1)
    assert batches == [[some[0], some[1], some[3]]] * 2
    assert batches[0] is batches[1]  # what went through the model once need not be dealt out again
    assert Passes().batches([replace(some[0], advantage=0.0)], 1) == []


def test_minibatches_are_whole_groups_in_an_order_of_seed_step_and_pass() -> None:
    some = rows(*"abcde")
    found = named(Passes(updates=2, minibatches=2, seed=3).batches(some, 7))
    assert [sorted({*names}) for names in found] != found
    for first, second in (found[:2], found[2:]):
        assert sorted(first + second) == sorted("aabbccddee")
        assert (len(first), len(second)) == (6, 4)
    assert found[:2] != found[2:]
    assert named(Passes(updates=2, minibatches=2, seed=3).batches(some, 7)) == found
    assert named(Passes(updates=2, minibatches=2, seed=4).batches(some, 7)) != found
    assert named(Passes(updates=2, minibatches=2, seed=3).batches(some, 8)) != found


def test_the_denominators_are_of_the_minibatch_and_one_without_teaching_has_no_step() -> None:
    one = Passes(minibatches=4, weigh=GRPO.weighed).batches(rows("a", "B"), 1)
    assert sorted(named(one)) == [["B"], ["a", "a"]]
    # 1 / (rows of the minibatch x tokens), the row that teaches nothing included.
    by_group = {batch[0].trajectory.prompt_id: [row.weight for row in batch] for batch in one}
    assert by_group == {"a": [1 / 2, 1 / 4], "B": [1 / 4]}
    idle = [replace(row, advantage=0.0) for row in rows("a")]
    assert named(Passes(minibatches=2).batches([*idle, *rows("b")], 1)) == [["b", "b"]]


def test_a_group_of_before_is_no_part_of_the_groups_of_now() -> None:
    batches = Passes(minibatches=2).batches([*rows("a"), *rows("a", then=3)], 4)
    assert sorted([row.then or 0 for row in batch] for batch in batches) == [[0, 0], [3, 3]]


def test_how_far_it_has_moved() -> None:
    d = [0.5, -0.25, 0.0]
    assert moved_by(torch.tensor(d)) == pytest.approx(sum(math.exp(x) - 1 - x for x in d) / 3)
    assert moved_by(torch.empty(0)) is None
    assert not Passes(updates=2, kl_stop=0.1).over(0.1)
    assert Passes(updates=2, kl_stop=0.1).over(0.11)
    assert Passes(updates=2, kl_stop=0.1).over(math.nan)
    assert not Passes(updates=2).over(9.0)


@pytest.mark.parametrize("changes", [{}, {"loss": "dapo", "importance_cap": 1.5}])
def test_minibatches_are_steps_of_their_own(fresh: Policy, changes: dict[str, Any]) -> None:
    """The twin: for each minibatch a step of the plain learner, on the old log-probs of the sampler."""
    s = settings(minibatches=2, updates_per_step=2, **changes)
    groups, before = groups_of(fresh), weights(fresh)
    how = loss_of(s)
    sgd = torch.optim.SGD(fresh.trainable().values(), lr=1.0)
    learner = replace(learner_of(s, fresh), optimizer=sgd, max_grad_norm=1e9)
    learn = learn_of(s, learner, distance_of(s, fresh, lambda: ()))
    told = learn(groups, 1).learned
    moved = weights(fresh)

    put_back(fresh, before)
    batches = passes_of(s).batches(how.rows(groups), 1)
    assert len(batches) == told.updates == 4
    starts = {}
    for batch in (*batches[0], *batches[1]):
        made = micro_batch([batch], fresh.device)
        with torch.no_grad():
            starts[id(batch.trajectory)] = fresh.logprobs(made.tokens)
    for batch in batches:
        sgd.zero_grad()
        for row in batch:
            made = micro_batch([row], fresh.device)
            new, start = fresh.logprobs(made.tokens), starts[id(row.trajectory)]
            cap = s.grpo.importance_cap
            importance = None if cap is None else torch.exp(start - made.old_B_T).clamp(max=cap)
            policy_loss(
                new,
                made.old_B_T if cap is None else start,
                made.advantages_B,
                made.weights_B,
                made.tokens.trainable,
                loss=s.grpo.loss,
                clip_low=0.2,
                clip_high=s.clip_high,
                importance_B_T=importance,
            ).loss.backward()
        for parameter in fresh.trainable().values():
            if parameter.grad is not None:
                parameter.data -= s.learning_rate * parameter.grad
    assert any(not torch.equal(moved[n], before[n]) for n in before)
    for name, tensor in weights(fresh).items():
        torch.testing.assert_close(moved[name], tensor, atol=1e-6, rtol=1e-4)


def update(policy: Policy, s: Settings, groups: Sequence[Group], **more: Any) -> Update:
    learner = learner_of(s, policy)
    return replace(learn_of(s, learner, distance_of(s, policy, lambda: ())), **more)(groups, 1)


def test_a_step_ends_before_it_goes_too_far(fresh: Policy) -> None:
    before, groups = weights(fresh), groups_of(fresh)
    s = settings(updates_per_step=5, learning_rate=0.002)
    alone = []  # K before the second, third ... optimizer step, and the weights there
    for updates in range(1, 6):
        put_back(fresh, before)
        learned(fresh, rows_of(groups), settings(updates_per_step=updates, learning_rate=0.002))
        there = [row for row in rows_of(groups) if row.teaches]
        d = torch.cat(
            [
                (fresh.logprobs(b.tokens).detach() - b.old_B_T)[b.tokens.sampled]
                for b in (micro_batch([row], fresh.device) for row in there)
            ]
        )
        alone.append((float((torch.exp(d) - 1 - d).mean()), weights(fresh)))
    kl = [k for k, _ in alone]
    assert 0 < kl[0] < kl[1] < kl[2]
    put_back(fresh, before)
    s = settings(updates_per_step=5, learning_rate=0.002, kl_stop=(kl[1] + kl[2]) / 2)
    told = update(fresh, s, groups).learned
    assert told.updates == 3
    assert told.moved == pytest.approx(kl[2], rel=1e-3)
    assert all(torch.equal(p, alone[2][1][n]) for n, p in fresh.trainable().items())
    put_back(fresh, before)
    far = update(fresh, settings(updates_per_step=2, learning_rate=0.002, kl_stop=9.0), groups).learned
    assert (far.updates, far.moved) == (2, pytest.approx(kl[0], rel=1e-3))


def test_what_is_replayed_and_when() -> None:
    p = prompt(1)
    one, two, three = (group(p, 1.0, 0.0, None, step=step) for step in (1, 2, 3))
    asked: list[int] = []

    def recorded(step: int) -> list[Group] | None:
        asked.append(step)
        return {1: [one], 2: [two]}.get(step)

    replay = Replay(steps=2, recorded=recorded)
    assert replay([three], 3) == [(1, one.trajectories[0], 0.5), (2, two.trajectories[0], 0.5)]
    assert [step for step, _, _ in replay([], 4)] == [2, 3]
    assert [step for step, _, _ in replay([], 5)] == [3]
    assert asked == [1, 2]  # what this process made or has asked for it remembers
    assert Replay(steps=3, recorded=recorded)([one], 1) == []


def test_a_replayed_answer_in_the_loss(fresh: Policy) -> None:
    """-sg(min(pi / mu_then, 2)) A log pi a token; it is neither compared with the sampler nor measured."""
    before, groups = weights(fresh), groups_of(fresh)
    old = groups_of(fresh, step=2)
    with torch.no_grad():  # the sampler of then is another policy
        t = old[0].trajectories[0]
        others = (*(x - 1.5 for x in t.segments[1].logprobs[:-1]), -0.01)
        said = replace(t.segments[1], logprobs=others)
        t = replace(t, segments=(t.segments[0], said))
    s = settings(kl=0.1, importance_cap=1.5)
    loss = loss_of(s)
    learner = learner_of(s, fresh)
    references = learn_of(s, learner, distance_of(s, fresh, lambda: ())).distance.in_loss(groups)
    some = loss.rows(groups, references, [(9, t, 0.7)])
    assert (some[-1].then, some[-1].reference, some[-1].fresh) == (9, None, False)
    assert some[-1].weight == pytest.approx(1 / (21 * t.completion_tokens))
    made = micro_batch(some[-2:], fresh.device)
    new = fresh.logprobs(made.tokens)
    sums = loss.objective(0.1)(new, made, None)
    single = micro_batch(some[-2:-1], fresh.device)
    alone = loss.objective(0.1)(fresh.logprobs(single.tokens), single, None)
    mask = made.tokens.sampled[1]
    ratio = torch.exp(new[1] - made.old_B_T[1]).detach()[mask]
    assert float(ratio.max()) > 2 > float(ratio.min())
    by_hand = -(ratio.clamp(max=2.0) * 0.7 * new[1][mask]).sum() * some[-1].weight
    assert float((sums.loss - alone.loss).detach()) == pytest.approx(float(by_hand.detach()), abs=1e-6)
    (slope,) = torch.autograd.grad(sums.loss, new)
    assert slope[1][mask].tolist() == pytest.approx((-ratio.clamp(max=2.0) * 0.7 * some[-1].weight).tolist())
    assert sums.clipped_tokens - alone.clipped_tokens == int((ratio > 2).sum())

    # The check sees the step's own answers alone, or it would call the sampler a stranger.
    tight = settings(mismatch_tolerance=None)
    told = update(fresh, tight, groups, replay=Replay(steps=1, recorded=lambda step: None))
    put_back(fresh, before)
    with_then = learner_of(tight, fresh).learn(
        loss_of(tight).rows(groups, None, [(9, t, 0.7)]), loss_of(tight).objective(0.0), step=1, rate=0.01
    )
    assert told.replayed == 0
    assert told.learned.seen is not None
    assert with_then.seen is not None
    assert with_then.seen.shape == told.learned.seen.shape
    assert float(with_then.seen.max()) < 1e-4
