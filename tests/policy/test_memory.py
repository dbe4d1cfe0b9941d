"""Keys and values kept between turns, held against the plain twin: every turn computed anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from make import prompts
from refine_rl.policy import decode_more
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.memory import Memory
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose, begun
from refine_rl.policy.sample import speak
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import ModelSettings
from refine_rl.types import Segment, Trajectory

MakeModel = Callable[..., Path]
PROMPTS = prompts("hi", "say something short about the cat", "the dog and the cat and the dog and the cat")
SAMPLING = Sampling(max_tokens=7, temperature=0.8)
MEMBERS = 4
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},  # shorter than what a member has of its own
    "gemma3_text": {"sliding_window": 9},
    "phi3": {},
    "gpt2": {},
}


def policy_of(make_model: MakeModel, kind: str = "llama", dtype: str = "float32") -> Policy:
    folder = make_model(kind, **KINDS[kind])
    policy = load_policy(ModelSettings(name=str(folder), dtype=dtype, device="cpu"))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    # Random models hardly ever end: here every fourth token does.
    return replace(policy, stop_ids=frozenset(range(0, policy.vocabulary, 4)))


def told(policy: Policy, trajectory: Trajectory, turn: int) -> tuple[int, ...]:
    """A world's words: of another length for each member and turn."""
    length = 1 + (7 * trajectory.member + 3 * turn) % 5
    return tuple((11 * trajectory.member + turn + n) % policy.vocabulary for n in range(length))


def game(
    policy: Policy,
    memory: Memory | None,
    *,
    turns: int = 4,
    sampling: Sampling = SAMPLING,
    after: Callable[[int], None] = lambda turn: None,
) -> list[Trajectory]:
    """Members that end a turn play on; those that are cut are over."""
    groups = [list(begun(policy.encode(p.messages), p, MEMBERS)) for p in PROMPTS]
    over: list[Trajectory] = []
    for turn in range(turns):
        purpose = Purpose(seed=3, step=7, name=f"turn {turn}")
        spoken = dict(speak(policy, groups, sampling=sampling, purpose=purpose, memory=memory))
        next_groups = []
        for place, group in enumerate(groups):
            goes_on = []
            for b, t in zip(group, spoken[place], strict=True):
                if t.stop_reason == "length" or turn == turns - 1:
                    over.append(t)
                    continue
                given = Segment(token_ids=told(policy, t, turn), trainable=False)
                goes_on.append(replace(b, segments=(*t.segments, given)))
            next_groups.append(goes_on)
        groups = next_groups
        after(turn)
    return sorted(over, key=lambda t: (t.prompt_id, t.member))


def tokens(trajectories: list[Trajectory]) -> list[list[tuple[int, ...]]]:
    return [[s.token_ids for s in t.segments] for t in trajectories]


def values(trajectories: list[Trajectory]) -> torch.Tensor:
    return torch.tensor([x for t in trajectories for s in t.segments for x in s.logprobs])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_every_turn_computed_anew(make_model: MakeModel, kind: str) -> None:
    policy = policy_of(make_model, kind)
    memory = policy.memory()
    assert memory is not None
    found, anew = game(policy, memory), game(policy, None)
    plain = game(replace(policy, use_fast=False), None)
    assert tokens(found) == tokens(anew) == tokens(plain)
    assert max(len(t.segments) for t in found) == 8  # somebody played all four turns
    assert len({len(t.segments) for t in found}) > 1  # and somebody did not
    torch.testing.assert_close(values(found), values(anew), rtol=0, atol=2e-5)
    assert memory.again == 0


def test_the_trainer_agrees_with_the_sampler_over_all_turns(make_model: MakeModel) -> None:
    for kind, dtype, most in (("mistral", "float32", 2e-5), ("qwen3", "bfloat16", 0.1)):
        policy = policy_of(make_model, kind, dtype)
        found = game(policy, policy.memory())
        batch = token_batch(found)
        with torch.no_grad():
            new = logprobs(policy, batch, temperature=0.8)[batch.trainable]
        assert len(new) == len(values(found))
        difference = (new - values(found)).abs()
        assert difference.mean() < most / 4
        assert difference.max() < most


def test_one_row_of_new_tokens_at_a_time_is_the_same(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(make_model, "mistral")
    whole = game(policy, policy.memory())
    monkeypatch.setattr(decode_more, "SCORES", 1)
    parts = game(policy, policy.memory())
    assert tokens(parts) == tokens(whole)
    torch.testing.assert_close(values(parts), values(whole), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "sampling",
    [
        replace(SAMPLING, max_rows=3),
        replace(SAMPLING, max_cached=200),  # room for a few members, or for none
        replace(SAMPLING, max_cached=60),
    ],
)
def test_limits_hold_over_turns_and_change_no_token(make_model: MakeModel, sampling: Sampling) -> None:
    policy = policy_of(make_model)
    memory = policy.memory()
    assert memory is not None
    kept = []
    found = game(policy, memory, sampling=sampling, after=lambda turn: kept.append(memory.tokens))
    assert tokens(found) == tokens(game(policy, None))
    torch.testing.assert_close(values(found), values(game(policy, None)), rtol=0, atol=2e-5)
    assert max(kept) <= sampling.max_cached // 2
    assert (memory.again > 0) == (sampling.max_cached < 1000)


def test_who_does_not_come_back_is_forgotten(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    memory = policy.memory()
    assert memory is not None
    game(policy, memory, turns=1)
    stood = memory.tokens
    memory.begin(policy.model, [], 1 << 20)
    assert stood > 0
    assert memory.tokens == 0


def test_moved_weights_are_not_remembered(make_model: MakeModel) -> None:
    """Half way through an update, or with the adapter off, what was kept belongs to another model."""

    def move(turn: int) -> None:
        if turn == 1:
            with torch.no_grad():
                for parameter in policy.trainable().values():
                    parameter += 0.2

    def played(memory: bool) -> tuple[list[Trajectory], int]:
        nonlocal policy
        policy = policy_of(make_model)
        kept = policy.memory() if memory else None
        return game(policy, kept, after=move), kept.again if kept else 0

    policy = policy_of(make_model)
    (found, again), (anew, _) = played(True), played(False)
    assert tokens(found) == tokens(anew)
    torch.testing.assert_close(values(found), values(anew), rtol=0, atol=2e-5)
    assert again > 0

    memory = policy.memory()
    assert memory is not None
    game(policy, memory, turns=1)
    with policy.reference():
        memory.begin(policy.model, _everybody(policy), 1 << 20)
    assert memory.tokens == 0


def _everybody(policy: Policy) -> list[Begun]:
    return [b for p in PROMPTS for b in begun(policy.encode(p.messages), p, MEMBERS)]


def test_a_member_whose_tokens_are_others_is_computed_anew(make_model: MakeModel) -> None:
    """A memory believes nobody's name."""
    policy = policy_of(make_model)
    memory = policy.memory()
    assert memory is not None
    game(policy, memory, turns=1)
    (start,) = begun(policy.encode(PROMPTS[0].messages), PROMPTS[0], 1)
    other = replace(start, segments=(*start.segments, Segment(token_ids=(5, 6, 7, 8), trainable=False)))
    how = {"sampling": SAMPLING, "purpose": Purpose(seed=1, step=1, name="x")}
    found = dict(speak(policy, [[other]], memory=memory, **how))  # type: ignore[arg-type]
    assert tokens(list(found[0])) == tokens(list(dict(speak(policy, [[other]], **how))[0]))  # type: ignore[arg-type]


def test_the_plain_way_has_no_memory(make_model: MakeModel) -> None:
    assert replace(policy_of(make_model), use_fast=False).memory() is None


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gpt2"])
@pytest.mark.parametrize("fast", [True, False])
def test_training_on_several_turns_is_a_plain_pass_of_each(
    make_model: MakeModel, kind: str, fast: bool
) -> None:
    """Values and gradients, of the policy's own tokens alone, whatever rows go together."""
    policy = replace(policy_of(make_model, kind), use_fast=fast)
    rows = game(policy, policy.memory())
    rows = [t for t in rows if len(t.segments) > 2] + [t for t in rows if len(t.segments) == 2]
    assert len(rows) == 12
    wanted: list[torch.Tensor] = []
    for t in rows:
        ids = [i for s in t.segments for i in s.token_ids]
        table = (policy.model(input_ids=torch.tensor([ids])).logits[0] / 0.8).log_softmax(-1)
        at, own = 0, []
        for s in t.segments:
            own += [table[at + n - 1, i] for n, i in enumerate(s.token_ids) if s.trainable]
            at += len(s.token_ids)
        wanted.append(torch.stack(own))
    weights = torch.linspace(-1, 1, sum(map(len, wanted)))
    (torch.cat(wanted) * weights).sum().backward()
    gradients = [p.grad.clone() for p in policy.trainable().values() if p.grad is not None]
    for of in (logprobs, plain_logprobs):
        for p in policy.trainable().values():
            p.grad = None
        done = 0
        for first in range(0, 12, 5):  # micro-batches
            batch = token_batch(rows[first : first + 5])
            found = of(policy, batch, temperature=0.8)
            assert not found[~batch.trainable].any()
            own_values = found[batch.trainable]
            (own_values * weights[done : done + len(own_values)]).sum().backward()
            want = torch.cat(wanted)[done : done + len(own_values)]
            torch.testing.assert_close(own_values, want, rtol=0, atol=2e-5)
            done += len(own_values)
        assert done == len(weights)
        ours = [p.grad for p in policy.trainable().values() if p.grad is not None]
        for got, expected in zip(ours, gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=5e-5)
