"""Sampling and log-probs: the draw by hand, and the fast decode against plain full forward passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from make import prompts
from refine_rl.envs.play import sample
from refine_rl.errors import Interrupted
from refine_rl.policy import draw as drawing
from refine_rl.policy.draw import Sampling, draw
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.policy.tokens import token_batch
from refine_rl.randomness import uniforms
from refine_rl.settings import ModelSettings
from refine_rl.types import Prompt, Trajectory

MakeModel = Callable[..., Path]
ARCHITECTURES = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "phi3",
    "opt",
    "bloom",
]
WINDOW = {"mistral": {"sliding_window": 6}}
PURPOSE = Purpose(seed=3, step=7, name="rollout")
UNEVEN = prompts("hi", "say something short about the cat", "the dog and the cat and the dog and the cat")


def policy_of(
    make_model: MakeModel, kind: str = "llama", dtype: str = "float32", adapter: str = "lora"
) -> Policy:
    folder = make_model(kind, **WINDOW.get(kind, {}))
    return load_policy(ModelSettings(name=str(folder), dtype=dtype, device="cpu", adapter=adapter))  # type: ignore[arg-type]


def shake(policy: Policy, scale: float = 0.3) -> None:
    """An adapter that does something: a fresh one changes nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def plain(policy: Policy, prompt: Prompt, member: int, sampling: Sampling) -> tuple[list[int], list[float]]:
    """One member alone, without cache, batch or padding: a whole forward pass for every token."""
    ids = list(policy.encode(prompt.messages))
    draws = uniforms(
        sampling.max_tokens, seed=3, step=7, prompt_id=prompt.id, member=member, purpose="rollout"
    )
    tokens: list[int] = []
    values: list[float] = []
    for t in range(sampling.max_tokens):
        logits = policy.model(input_ids=torch.tensor([ids + tokens])).logits[:, -1].double()
        scaled = (logits / (sampling.temperature or 1.0)).log_softmax(-1)[0]
        if sampling.temperature == 0:
            token = int(scaled.argmax())
        else:
            token = int(np.searchsorted(scaled.exp().cumsum(0).numpy(), draws[t], side="right"))
        tokens.append(token)
        values.append(float(scaled[token]))
        if token in policy.stop_ids:
            break
    return tokens, values


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_batched_sampling_is_plain_sampling(make_model: MakeModel, kind: str) -> None:
    policy = policy_of(make_model, kind)
    shake(policy, 0.05)
    sampling = Sampling(max_tokens=12, temperature=0.8)
    groups = sample(policy, UNEVEN, members=3, sampling=sampling, purpose=PURPOSE)
    for prompt, group in zip(UNEVEN, groups, strict=True):
        for member, trajectory in enumerate(group):
            tokens, values = plain(policy, prompt, member, sampling)
            assert trajectory.segments[0].token_ids == policy.encode(prompt.messages)
            assert list(trajectory.segments[1].token_ids) == tokens
            assert trajectory.segments[1].logprobs == pytest.approx(values, abs=2e-5)
            assert trajectory.member == member
            assert trajectory.stop_reason == ("stop" if tokens[-1] in policy.stop_ids else "length")


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_trainer_agrees_with_the_sampler(make_model: MakeModel, kind: str, adapter: str) -> None:
    policy = policy_of(make_model, kind, adapter=adapter)
    shake(policy, 0.05)
    groups = sample(
        policy, UNEVEN, members=3, sampling=Sampling(max_tokens=12, temperature=0.7), purpose=PURPOSE
    )
    assert recorded_minus_recomputed(policy, groups, 0.7).abs().max() < 2e-5


def recorded_minus_recomputed(
    policy: Policy, groups: list[tuple[Trajectory, ...]], temperature: float
) -> torch.Tensor:
    members = [t for group in groups for t in group]
    batch = token_batch(members)
    new = logprobs(policy, batch, temperature=temperature).detach()
    assert not new[~batch.trainable].any()
    return new[batch.trainable] - torch.tensor([x for t in members for x in t.segments[1].logprobs])


def test_bfloat16_agrees_within_its_rounding(make_model: MakeModel) -> None:
    for adapter in ("lora", "none"):
        policy = policy_of(make_model, "qwen3", "bfloat16", adapter)
        groups = sample(policy, UNEVEN, members=4, sampling=Sampling(max_tokens=12), purpose=PURPOSE)
        difference = recorded_minus_recomputed(policy, groups, 1.0).abs()
        assert 0 < difference.mean() < 1e-2


def test_gradients_are_those_of_the_plain_forward(make_model: MakeModel) -> None:
    policy = policy_of(make_model, "qwen3")
    shake(policy)
    groups = sample(policy, UNEVEN, members=2, sampling=Sampling(max_tokens=8), purpose=PURPOSE)
    members = [t for group in groups for t in group]
    logprobs(policy, token_batch(members), temperature=0.9).sum().backward()
    ours = {n: p.grad.clone() for n, p in policy.trainable().items() if p.grad is not None}
    for p in policy.trainable().values():
        p.grad = None
    for t in members:  # one at a time, no padding, every logit
        prompt, answer = t.segments[0].token_ids, t.segments[1].token_ids
        logits = policy.model(input_ids=torch.tensor([prompt + answer])).logits[0]
        table = (logits / 0.9).log_softmax(-1)
        total = sum(table[len(prompt) - 1 + i, token] for i, token in enumerate(answer))
        torch.autograd.backward(total)
    assert ours
    for name, p in policy.trainable().items():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-5)


def test_neighbours_do_not_matter(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    sampling = Sampling(max_tokens=10)
    together = sample(policy, UNEVEN, members=4, sampling=sampling, purpose=PURPOSE)
    alone = sample(policy, UNEVEN[1:2], members=4, sampling=sampling, purpose=PURPOSE)[0]
    few = sample(policy, UNEVEN, members=4, sampling=Sampling(max_tokens=10, max_rows=4), purpose=PURPOSE)
    tokens = [t.segments[1].token_ids for t in together[1]]
    assert [t.segments[1].token_ids for t in alone] == tokens
    assert [t.segments[1].token_ids for t in few[1]] == tokens
    assert len(set(tokens)) > 1  # members differ


@pytest.mark.parametrize("change", [{"seed": 4}, {"step": 8}, {"name": "held_out"}])
def test_seed_step_and_purpose_each_change_the_draws(
    make_model: MakeModel, change: dict[str, object]
) -> None:
    policy = policy_of(make_model)
    other = Purpose(**{"seed": 3, "step": 7, "name": "rollout", **change})  # type: ignore[arg-type]
    sampling = Sampling(max_tokens=10)
    first = sample(policy, UNEVEN, members=2, sampling=sampling, purpose=PURPOSE)
    second = sample(policy, UNEVEN, members=2, sampling=sampling, purpose=other)
    assert [t.segments[1] for g in first for t in g] != [t.segments[1] for g in second for t in g]


def test_greedy_is_the_most_likely_token(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    sampling = Sampling(max_tokens=8, temperature=0.0)
    group = sample(policy, UNEVEN[:1], members=2, sampling=sampling, purpose=PURPOSE)[0]
    assert group[0].segments[1].token_ids == group[1].segments[1].token_ids
    assert list(group[0].segments[1].token_ids) == plain(policy, UNEVEN[0], 0, sampling)[0]


def test_draw_follows_the_distribution() -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:-1]
    token, logprob = draw(probs.log().expand(len(u), -1), u, Sampling(max_tokens=1))
    assert torch.bincount(token, minlength=4).div(len(u)).tolist() == pytest.approx(
        [0.1, 0.0, 0.6, 0.3], abs=1e-4
    )
    torch.testing.assert_close(logprob, probs.log()[token])


def test_draw_at_the_very_end_takes_no_impossible_token() -> None:
    logits = torch.tensor([[0.0, 0.0, -float("inf")]])
    token, _ = draw(logits, torch.tensor([1.0 - 1e-17], dtype=torch.float64), Sampling(max_tokens=1))
    assert token.item() == 1


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(max_tokens=1, top_k=2), {1, 3}),
        (Sampling(max_tokens=1, top_p=0.4), {1}),  # 0.4 itself is enough
        (Sampling(max_tokens=1, top_p=0.41), {1, 3}),
        (Sampling(max_tokens=1, top_k=3, top_p=0.95), {0, 1, 3}),
        (Sampling(max_tokens=1, top_k=9), {0, 1, 2, 3}),
    ],
)
def test_top_k_and_top_p(sampling: Sampling, allowed: set[int]) -> None:
    probs = torch.tensor([0.2, 0.4, 0.1, 0.3])
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    token, logprob = draw(probs.log().expand(len(u), -1), u, sampling)
    assert set(token.tolist()) == allowed
    # The log-prob is that of the whole distribution: what the trainer will compute.
    torch.testing.assert_close(logprob, probs.log()[token])


def test_pause_can_stop_sampling(make_model: MakeModel) -> None:
    calls = 0

    def pause() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        sample(
            policy_of(make_model),
            UNEVEN,
            members=2,
            sampling=Sampling(max_tokens=10),
            purpose=PURPOSE,
            pause=pause,
        )
    assert calls == 3


def test_text_has_no_stop_token_and_its_tokens_are_kept(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    groups = sample(policy, UNEVEN * 1, members=64, sampling=Sampling(max_tokens=40), purpose=PURPOSE)
    stopped = [t for g in groups for t in g if t.stop_reason == "stop"]
    assert stopped
    for t in stopped:
        answer = t.segments[1].token_ids
        assert answer[-1] in policy.stop_ids
        assert not set(answer[:-1]) & policy.stop_ids
        assert t.completion == policy.decode(answer[:-1])
        assert "<|end|>" not in t.completion


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_token_drawn_from_tiles_is_the_one_drawn_from_the_whole(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "TILE", 40 * 2 * drawing.BLOCK)  # tiles of two blocks for 40 rows
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5 * drawing.BLOCK + 3, generator=generator) * 4
    logits[7, -1] = 60.0  # the last block's only heavy token
    uniform = torch.rand(40, generator=generator, dtype=torch.float64)
    sampling = Sampling(max_tokens=1, temperature=temperature)

    whole = draw(logits, uniform, sampling)
    tiled = drawing.draw_tiled(lambda a, b: logits[:, a:b], logits.shape[1], uniform, temperature)

    assert tiled[0].tolist() == whole[0].tolist()
    assert whole[0][7] == logits.shape[1] - 1
    torch.testing.assert_close(tiled[1], whole[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        tiled[1], (logits / temperature).log_softmax(-1)[range(40), tiled[0]], atol=2e-6, rtol=0
    )
