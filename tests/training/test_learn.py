"""One update on a small real model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from make import group, prompts
from refine_rl.envs.play import sample
from refine_rl.errors import GuardStop, Interrupted, MachineError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training import checkpoint
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.kl import kl_per_token
from refine_rl.training.grpo.setup import learner_of, loss_of
from refine_rl.training.local import LocalLearner, adamw
from refine_rl.training.passes import Passes
from refine_rl.training.rows import Row
from refine_rl.types import Group, Segment
from taught import learned, references_of, rows_of

MakeModel = Callable[..., Path]
PROMPTS = prompts("hi", "say something about the dog", "the cat")


def settings(**grpo: Any) -> Settings:
    sections = {name: grpo.pop(name) for name in ("model", "rollout") if name in grpo}
    return Settings.model_validate(
        {"task": "x", "grpo": {"learning_rate": 0.01, **grpo}, **{"rollout": {"max_tokens": 8}, **sections}}
    )


def policy_of(make_model: MakeModel, **changes: Any) -> Policy:
    model = ModelSettings(
        **{"name": str(make_model("qwen3")), "dtype": "float32", "device": "cpu", **changes}
    )
    return load_policy(model, keep_reference=True)


def groups_of(policy: Policy, *, temperature: float = 1.0) -> list[Group]:
    sampled = sample(
        policy,
        PROMPTS,
        members=4,
        sampling=Sampling(max_tokens=8, temperature=temperature),
        purpose=Purpose(seed=0, step=1, name="rollout"),
    )
    advantages = [(1.0, -0.5, 0.0, -0.5), (0.0, 0.0, 0.0, 0.0), (2.0, -1.0, -1.0, 0.0)]
    return [
        group(p, *[0.0] * 4, trajectories=t, advantages=a)
        for p, t, a in zip(PROMPTS, sampled, advantages, strict=True)
    ]


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in policy.trainable().items()}


def updated(policy: Policy, batch: Sequence[Row], s: Settings, step: int = 1) -> dict[str, torch.Tensor]:
    learned(policy, batch, s, step=step)
    return weights(policy)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_tolerance_follows_from_format_and_size(make_model: MakeModel, adapter: str) -> None:
    policy = policy_of(make_model, adapter=adapter)
    config = (policy.model.get_base_model() if policy.adapter else policy.model).config
    layers, width = config.num_hidden_layers, config.hidden_size
    assert learner_of(settings(), policy).check.limit == pytest.approx(
        50 * 2**-24 * math.sqrt(2 * layers * width)
    )
    coarse = policy_of(make_model, adapter=adapter, dtype="bfloat16")
    assert learner_of(settings(), coarse).check.limit == pytest.approx(2.5 * 2**-8 * math.sqrt(2 * layers))
    assert learner_of(settings(mismatch_tolerance=0.5), coarse).check.limit == 0.5


@pytest.mark.parametrize(
    "grpo",
    [
        {},
        {"updates_per_step": 3, "importance_cap": 1.5},
        {"kl": 0.1, "loss": "gspo"},
        {"tokens_per_micro_batch": 1},
    ],
)
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_lanes_change_nothing_but_the_rounding(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, grpo: dict[str, Any], adapter: str
) -> None:
    s = settings(**{"tokens_per_micro_batch": 60, **grpo})
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            policy = policy_of(make_model, adapter=adapter)
            groups = groups_of(policy)
            references = references_of(policy, [t for g in groups for t in g.trajectories], s)
            batch = rows_of(groups, loss=s.grpo.loss, references=references if s.grpo.kl else None)
            optimizer = torch.optim.SGD(policy.trainable().values(), lr=1.0)
            metrics = learned(policy, batch, s, step=1, optimizer=optimizer)
            found.append((metrics, weights(policy), references))
    finally:
        torch.set_num_threads(before)
    (serial, moved, references), (metrics, beside, by_lanes), (again, once_more, _) = found
    assert all(torch.equal(beside[n], once_more[n]) for n in beside)
    assert metrics.seen is not None
    assert again.seen is not None
    assert torch.equal(metrics.seen, again.seen)
    assert replace(metrics, seen=None, apart=None) == replace(again, seen=None, apart=None)
    assert metrics.loss == pytest.approx(serial.loss, abs=1e-6)
    assert metrics.clip_share == serial.clip_share
    for name in moved:
        torch.testing.assert_close(moved[name], beside[name], atol=2e-5, rtol=1e-4)
    assert by_lanes.keys() == references.keys()
    for key, values in references.items():
        assert by_lanes[key] == pytest.approx(values, abs=1e-5)


def test_the_micro_batch_size_does_not_matter(make_model: MakeModel) -> None:
    results = []
    for tokens in (1, 60, 8192):
        policy = policy_of(make_model)
        batch = rows_of(groups_of(policy), loss="dapo")
        # Plain SGD shows the gradient itself; AdamW's first step would show its sign alone.
        s = settings(tokens_per_micro_batch=tokens)
        optimizer = torch.optim.SGD(policy.trainable().values(), lr=1.0)
        metrics = learned(policy, batch, s, step=1, optimizer=optimizer)
        results.append((metrics.loss, weights(policy)))
    for loss, other in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-4, abs=1e-7)
        for name, value in results[0][1].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6)


def test_good_becomes_likelier_and_bad_less_likely(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    groups = groups_of(policy)
    batch = rows_of(groups)

    def total(trajectory: Any) -> float:
        from refine_rl.policy.logprobs import logprobs
        from refine_rl.policy.tokens import token_batch

        return float(logprobs(policy, token_batch([trajectory])).detach().sum())

    good, bad = groups[2].trajectories[0], groups[2].trajectories[1]
    before = total(good), total(bad)
    updated(policy, batch, settings(learning_rate=0.001))
    assert total(good) > before[0]
    assert total(bad) < before[1]


def test_groups_without_advantage_are_skipped_without_changing_the_result(make_model: MakeModel) -> None:
    a, b = policy_of(make_model), policy_of(make_model)
    groups = groups_of(a)
    batch = rows_of(groups)
    # The same rows with an advantage too small to matter, but not skipped.
    tiny = [replace(r, advantage=r.advantage or 1e-30) for r in batch]
    one, two = updated(a, batch, settings()), updated(b, tiny, settings())
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_nothing_moves_without_advantage(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    before = weights(policy)
    batch = [replace(r, advantage=0.0) for r in rows_of(groups_of(policy))]
    metrics = learned(policy, batch, settings())
    assert (metrics.loss, metrics.grad_norm) == (None, None)
    assert metrics.seen is not None  # the sampler is checked all the same
    assert metrics.seen.mean() < 1e-5
    assert all(torch.equal(before[n], p) for n, p in policy.trainable().items())


def test_rollouts_from_the_untrained_weights_are_caught_and_named(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    s = settings()
    updated(policy, rows_of(groups_of(policy)), s)
    before = weights(policy)
    with policy.reference() as untrained:  # a sampler that forgot the adapter
        batch = rows_of(groups_of(untrained))
    with pytest.raises(GuardStop, match="untrained weights") as stop:
        learned(policy, batch, s, step=2)
    assert stop.value.guard == "mismatch"
    assert all(torch.equal(before[n], p) for n, p in policy.trainable().items())


def test_a_forgotten_temperature_is_caught_and_named(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    batch = rows_of(groups_of(policy, temperature=1.0))
    s = settings(rollout={"max_tokens": 8, "temperature": 0.5})
    with pytest.raises(GuardStop, match=r"did not apply the temperature 0\.5"):
        learned(policy, batch, s)


def test_tokens_encoded_again_are_caught(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    groups = groups_of(policy)
    shifted = []
    for row in rows_of(groups):
        segment = row.trajectory.segments[1]
        other = Segment(
            token_ids=tuple((i + 1) % 200 for i in segment.token_ids),
            trainable=True,
            logprobs=segment.logprobs,
        )
        shifted.append(
            replace(row, trajectory=replace(row.trajectory, segments=(row.trajectory.segments[0], other)))
        )
    with pytest.raises(GuardStop, match="number format or prompt tokens"):
        learned(policy, shifted, settings())


def test_a_loss_that_is_not_finite_moves_nothing(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    before = weights(policy)
    batch = [replace(r, advantage=float("inf")) for r in rows_of(groups_of(policy))]
    with pytest.raises(GuardStop) as stop:
        learned(policy, batch, settings())
    assert stop.value.guard == "not_finite"
    assert all(torch.equal(before[n], p) for n, p in policy.trainable().items())


def test_several_updates_keep_the_old_logprobs(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    batch = rows_of(groups_of(policy))
    s = settings(updates_per_step=4, learning_rate=0.05)
    metrics = learned(policy, batch, s)
    # On policy no ratio leaves the clip range; after large steps away from the old log-probs some do.
    assert metrics.clip_share is not None
    assert metrics.clip_share > 0.05
    one = policy_of(make_model)
    single = learned(one, batch, settings(learning_rate=0.05))
    assert single.clip_share == 0.0
    assert single.loss == metrics.loss  # the first of the four


def test_the_kl_term_pulls_towards_the_reference(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    s = settings(kl=1.0, learning_rate=0.006)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += 0.05

    def kl_now() -> float:
        how = Sampling(max_tokens=8)
        drawn = sample(
            policy, PROMPTS, members=100, sampling=how, purpose=Purpose(seed=0, step=2, name="rollout")
        )
        fresh = [t for its in drawn for t in its]
        references = references_of(policy, fresh, s)
        return float(torch.cat(kl_per_token(fresh, references, "k3")).mean())

    before = kl_now()
    optimizer = adamw(policy)
    for _ in range(15):
        groups = groups_of(policy)
        members = [t for g in groups for t in g.trajectories]
        batch = [
            replace(r, advantage=0.0) for r in rows_of(groups, references=references_of(policy, members, s))
        ]
        learned(policy, batch, s, step=1, optimizer=optimizer)
    assert before > 0.5
    assert kl_now() < 0.8 * before  # 0.64 of it, when this was written


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_reference_logprobs_are_the_samplers_before_training(make_model: MakeModel, adapter: str) -> None:
    policy = policy_of(make_model, adapter=adapter)
    members = [t for g in groups_of(policy) for t in g.trajectories]
    found = references_of(policy, members, settings())
    for t in members:
        assert found[t.prompt_id, t.member] == pytest.approx(t.segments[1].logprobs, abs=1e-5)


def test_gradients_are_clipped_and_the_norm_is_told_before(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    before = weights(policy)
    batch = [replace(r, advantage=1000 * r.advantage) for r in rows_of(groups_of(policy))]
    sgd = torch.optim.SGD(policy.trainable().values(), lr=1.0)
    metrics = learned(policy, batch, settings(max_grad_norm=0.5, learning_rate=1.0), optimizer=sgd)
    moved = math.sqrt(sum(float((weights(policy)[n] - before[n]).square().sum()) for n in before))
    assert metrics.grad_norm is not None
    assert metrics.grad_norm > 10
    assert moved == pytest.approx(0.5, rel=1e-3)


def test_dropout_depends_on_seed_and_step_alone(make_model: MakeModel) -> None:
    results = []
    for noise in (1, 2):
        policy = policy_of(make_model, dropout=0.3)
        batch = rows_of(groups_of(policy))
        torch.manual_seed(noise)
        s = settings(model={"dropout": 0.3})
        results.append(updated(policy, batch, s))
        assert not any(m.training for m in policy.model.modules())
    plain = policy_of(make_model)
    without = updated(plain, rows_of(groups_of(plain)), settings())
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])
    assert any(not torch.equal(results[0][n], without[n]) for n in without)


@pytest.mark.parametrize("changes", [{}, {"updates_per_step": 2, "kl": 0.1, "tokens_per_micro_batch": 40}])
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])  # lean LoRA layers, and peft's own on Conv1D
def test_dropout_with_checkpointing_is_dropout_without(
    make_model: MakeModel, kind: str, changes: dict[str, Any]
) -> None:
    """The backward pass of an update comes when dropout is off again."""
    results = []
    for recompute in (False, True):
        name = str(make_model(kind))
        policy = policy_of(make_model, name=name, dropout=0.3, gradient_checkpointing=recompute)
        groups = groups_of(policy)
        references = references_of(policy, [t for g in groups for t in g.trajectories], settings())
        batch = rows_of(groups, references=references if changes else None)
        results.append(updated(policy, batch, settings(model={"dropout": 0.3}, **changes)))
        assert not any(m.training for m in policy.model.modules())
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_dropout_in_two_lanes_is_dropout_in_one(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of the same rows drop the same, whoever works them: only sums are rounded otherwise."""
    results = []
    for lanes in (1, 2):
        monkeypatch.setattr("refine_rl.training.local.lanes_of", lambda speaker, lanes=lanes: lanes)
        policy = policy_of(make_model, dropout=0.3)
        batch = rows_of(groups_of(policy))
        s = settings(model={"dropout": 0.3}, tokens_per_micro_batch=30 * lanes)
        results.append(updated(policy, batch, s))
    for name, one in results[0].items():
        torch.testing.assert_close(results[1][name], one, rtol=1e-4, atol=1e-6)


def test_an_interrupt_moves_nothing(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    before = weights(policy)
    batch = rows_of(groups_of(policy))
    calls = 0

    def pause() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Interrupted("stop")

    s = settings(tokens_per_micro_batch=1)
    with pytest.raises(Interrupted):
        learned(policy, batch, s, pause=pause)
    assert all(torch.equal(before[n], p) for n, p in policy.trainable().items())


def test_weights_between_two_optimizer_steps_are_not_whole(make_model: MakeModel, tmp_path: Path) -> None:
    """A processor that fails in the second update leaves what no checkpoint may keep."""
    policy = policy_of(make_model)
    batch = rows_of(groups_of(policy))
    s = settings(updates_per_step=2)
    learner, loss = learner_of(s, policy), loss_of(s).objective(0.0)
    learner.save(tmp_path, Position())
    learner.learn(batch, loss, step=1, rate=0.01, passes=Passes(updates=2))
    assert learner.whole
    learner.load(tmp_path)  # where the rollouts came from

    def fails(*args: Any) -> Any:
        if not learner.whole:  # a weight has moved
            raise MachineError("Out of memory.")
        return loss(*args)

    with pytest.raises(MachineError):
        learner.learn(batch, fails, step=2, rate=0.01, passes=Passes(updates=2))
    assert not learner.whole
    learner.load(tmp_path)
    assert learner.whole


def test_a_pause_is_for_the_first_update_and_a_sign_of_life_for_each(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a weight has moved nobody may leave; whoever computes a gradient for another process tells it
    between micro-batches that it lives, whatever the update."""
    monkeypatch.setattr("refine_rl.training.local.lanes_of", lambda speaker: 1)
    policy = policy_of(make_model)
    batch = rows_of(groups_of(policy))
    s = settings(tokens_per_micro_batch=1, updates_per_step=3)
    calls = 0

    def pause() -> None:
        nonlocal calls
        calls += 1

    learned(policy, batch, s, pause=pause)
    worked = [row for row in batch if row.teaches]
    rows = len(worked)
    assert calls == rows
    learner = learner_of(s, policy)
    learner.take(worked)
    for update in range(2):
        learner.gradient(loss_of(s).objective(0.0), 1, update, pause)
    assert calls == 3 * rows


@pytest.mark.parametrize(
    ("tokens", "advice"),
    [
        (600, "600 tokens at once. Fewer .*: --set grpo.tokens_per_micro_batch=300$"),
        (1, "one answer and its prompt of [0-9]+ tokens at once: model.gradient_checkpointing = true"),
    ],
)
def test_memory_that_runs_out_says_what_needs_less(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, tokens: int, advice: str
) -> None:
    policy = policy_of(make_model)
    before, batch = weights(policy), rows_of(groups_of(policy))

    def full(self: LocalLearner, *_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(LocalLearner, "_forward", full)
    with pytest.raises(MachineError, match=f"^Out of memory in training, with .*{advice}"):
        learned(policy, batch, settings(tokens_per_micro_batch=tokens))
    assert all(torch.equal(before[n], p) for n, p in policy.trainable().items())


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_checkpoints_keep_every_bit(make_model: MakeModel, tmp_path: Path, adapter: str) -> None:
    s = settings()
    policy = policy_of(make_model, adapter=adapter)
    optimizer = adamw(policy)
    batch = rows_of(groups_of(policy))
    learned(policy, batch, s, step=1, optimizer=optimizer)
    checkpoint.save(tmp_path, policy, optimizer, Position(step=1, best_step=1, best_reward=0.5, seconds=2.5))
    second = rows_of(groups_of(policy))
    learned(policy, second, s, step=2, optimizer=optimizer)

    again = policy_of(make_model, adapter=adapter)
    other = adamw(again)
    position = checkpoint.load(tmp_path, again, other)
    assert position == Position(step=1, best_step=1, best_reward=0.5, seconds=2.5)
    learned(again, second, s, step=2, optimizer=other)
    for name, p in policy.trainable().items():
        assert torch.equal(p, again.trainable()[name])


def test_the_check_is_made_also_where_nothing_is_trained(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += 0.1
    with policy.reference() as untrained:
        batch = rows_of(groups_of(untrained))
    flat = [replace(r, advantage=0.0) for r in batch]
    for s in (settings(), settings(model={"dropout": 0.2})):
        with pytest.raises(GuardStop) as stop:
            learned(policy, flat, s)
        assert stop.value.guard == "mismatch"


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_low": 0.01, "clip_high": 0.5},
        {"clip_low": 0.01, "clip_high": 0.01},
        {"kl": 1.0, "kl_estimator": "k2"},
        {"kl": 1.0, "kl_estimator": "k3"},
        {"weight_decay": 0.9, "learning_rate": 0.5},
    ],
)
def test_every_setting_reaches_the_update(make_model: MakeModel, changes: dict[str, Any]) -> None:
    """Two updates on the same rows, against the loss written out with the setting's own number."""
    policy, twin = policy_of(make_model), policy_of(make_model)
    for model in (policy, twin):
        with torch.no_grad():
            for p in model.trainable().values():
                p += 0.03
    s = settings(**{"updates_per_step": 2, "max_grad_norm": 1e9, **changes})
    groups = groups_of(policy)
    members = [t for g in groups for t in g.trajectories]
    references = references_of(policy, members, s) if s.grpo.kl else None
    batch = rows_of(groups, loss="dr_grpo", references=references)
    # Old log-probs that are off by a quarter: the ratio 1.28 lies between the two upper clips.
    loose = s.model_copy(update={"grpo": s.grpo.model_copy(update={"mismatch_tolerance": 9.0})})
    learned(policy, shifted(batch, -0.25), loose)

    optimizer = torch.optim.AdamW(
        [p for _, p in sorted(twin.trainable().items())], lr=s.learning_rate, weight_decay=s.grpo.weight_decay
    )
    for _ in range(2):
        optimizer.zero_grad()
        total = torch.zeros(())
        for row in batch:
            prompt, answer = row.trajectory.segments[0].token_ids, row.trajectory.segments[1].token_ids
            table = twin.model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            for i, token in enumerate(answer):
                new = table[len(prompt) - 1 + i, token]
                ratio = torch.exp(new - (row.old[i] - 0.25))
                clipped = ratio.clamp(1 - s.clip_low, 1 + s.clip_high)
                loss = -torch.minimum(ratio * row.advantage, clipped * row.advantage)
                if row.reference is not None:
                    d = row.reference[i] - new
                    loss = loss + s.grpo.kl * (d * d / 2 if s.grpo.kl_estimator == "k2" else d.exp() - d - 1)
                total = total + loss / (len(batch) * 8)
        torch.autograd.backward(total)
        optimizer.step()
    for name, p in policy.trainable().items():
        torch.testing.assert_close(p, twin.trainable()[name], rtol=1e-2, atol=2e-4)


def shifted(batch: Sequence[Row], by: float) -> list[Row]:
    """The rows as if the sampler had given each token another log-prob."""
    out = []
    for row in batch:
        prompt, answer = row.trajectory.segments
        logprobs = tuple(x + by for x in answer.logprobs)
        segments = (prompt, replace(answer, logprobs=logprobs))
        out.append(replace(row, trajectory=replace(row.trajectory, segments=segments)))
    return out
