"""The step in which nothing moves, computed as it stands, against the step of decode.py."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from make import prompts
from refine_rl.envs.play import sample
from refine_rl.policy import decode_static, decoder_only
from refine_rl.policy.captured import Captured
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose, begun
from refine_rl.settings import ModelSettings
from refine_rl.types import Trajectory

MakeModel = Callable[..., Path]
PURPOSE = Purpose(seed=3, step=7, name="rollout")
UNEVEN = prompts("hi", "say something short about the cat", "the dog and the cat and the dog and the cat")


def policy_of(make_model: MakeModel, kind: str = "llama", dtype: str = "float32", **model: Any) -> Policy:
    window = {"mistral": {"sliding_window": 6}}.get(kind, {})
    settings = ModelSettings(name=str(make_model(kind, **window)), dtype=dtype, device="cpu", **model)  # type: ignore[arg-type]
    policy = load_policy(settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


def both_ways(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, speak: Callable[[], list[tuple[Trajectory, ...]]]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """What `speak` gives with decode.py, and with decode_static.py."""
    moving = [t for group in speak() for t in group]
    monkeypatch.setattr(decoder_only, "SharedPrompts", decode_static.StaticPrompts)
    return moving, [t for group in speak() for t in group]


def require_same(moving: list[Trajectory], static: list[Trajectory], tolerance: float = 2e-5) -> None:
    for a, b in zip(moving, static, strict=True):
        assert b.segments[-1].token_ids == a.segments[-1].token_ids
        assert b.segments[-1].logprobs == pytest.approx(a.segments[-1].logprobs, abs=tolerance)
        assert (b.messages, b.stop_reason, b.member) == (a.messages, a.stop_reason, a.member)


@pytest.mark.parametrize("looked_at", [3, 256])  # from 3 slots on: the step is made anew three times
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text", "gpt2", "phi3", "opt"])
def test_it_is_the_step_that_moves(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, kind: str, looked_at: int
) -> None:
    monkeypatch.setattr(decode_static, "LOOKED_AT", looked_at)
    policy = policy_of(make_model, kind)
    sampling = Sampling(max_tokens=20, temperature=0.8)
    require_same(
        *both_ways(
            policy,
            monkeypatch,
            lambda: sample(policy, UNEVEN, members=5, sampling=sampling, purpose=PURPOSE),
        )
    )


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=12, temperature=0),
        Sampling(max_tokens=12, top_k=3),
        Sampling(max_tokens=12, top_p=0.7),
        Sampling(max_tokens=1),
    ],
)
def test_however_tokens_are_drawn(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    policy = policy_of(make_model)
    require_same(
        *both_ways(
            policy,
            monkeypatch,
            lambda: sample(policy, UNEVEN, members=3, sampling=sampling, purpose=PURPOSE),
        )
    )


def test_groups_of_other_sizes_whose_rows_leave(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(make_model)
    policy.stop_ids = frozenset(range(0, policy.vocabulary, 12))
    moved: list[int] = []
    stay = decode_static.StaticDecoding.stay
    monkeypatch.setattr(
        decode_static.StaticDecoding,
        "stay",
        lambda self, rows: (moved.append(len(rows)), stay(self, rows))[1],
    )
    groups: list[tuple[Begun, ...]] = [
        begun(policy.encode(p.messages), p, n) for p, n in zip(UNEVEN, (1, 20, 4), strict=True)
    ]

    def speak() -> list[tuple[Trajectory, ...]]:
        spoken = policy.speak(groups, sampling=Sampling(max_tokens=40), purpose=PURPOSE)
        return [group for _, group in sorted(spoken, key=lambda found: found[0])]

    moving, static = both_ways(policy, monkeypatch, speak)
    require_same(moving, static)
    assert len({len(t.segments[-1].token_ids) for t in static}) > 5  # they stop at many places
    assert moved == sorted(moved, reverse=True)
    assert moved[0] <= 12  # half of 25


def test_weights_that_autocast_rounds(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(make_model, "qwen3", "bfloat16", adapter="none")
    sampling = Sampling(max_tokens=6, temperature=0)
    moving, static = both_ways(
        policy,
        monkeypatch,
        lambda: sample(policy, UNEVEN, members=2, sampling=sampling, purpose=PURPOSE),
    )
    for a, b in zip(moving, static, strict=True):
        same = [x == y for x, y in zip(a.segments[-1].token_ids, b.segments[-1].token_ids, strict=False)]
        first = same.index(False) if False in same else len(same)
        assert b.segments[-1].logprobs[:first] == pytest.approx(a.segments[-1].logprobs[:first], abs=0.1)


def test_without_records_it_is_computed_as_it_stands() -> None:
    calls: list[int] = []

    def work() -> tuple[torch.Tensor, ...]:
        calls.append(1)
        return (torch.tensor([float(len(calls))]),)

    step = Captured(torch.device("cpu"))
    assert [step(work)[0].item(), step(work)[0].item()] == [1.0, 2.0]
    assert step.why_not == "there are no records on cpu"


def test_what_is_recorded_goes_with_its_sampling(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that only the garbage collector finds goes while another is made, and breaks it."""
    policy = policy_of(make_model)
    records: list[weakref.ref[Captured]] = []

    class Remembered(Captured):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            records.append(weakref.ref(self))

    monkeypatch.setattr(decode_static, "Captured", Remembered)
    monkeypatch.setattr(decoder_only, "SharedPrompts", decode_static.StaticPrompts)
    gc.disable()
    try:
        sample(policy, UNEVEN, members=2, sampling=Sampling(max_tokens=6), purpose=PURPOSE)
        assert records
        assert not any(record() for record in records)
    finally:
        gc.enable()
