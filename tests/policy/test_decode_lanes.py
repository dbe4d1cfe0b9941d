"""Fused layers and lanes against the plain way to sample, a whole forward pass for every token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import make
from refine_rl.policy import decode, decode_lanes, fused, lora, onednn, scripted
from refine_rl.policy.decode_look import Rows, attend
from refine_rl.policy.decode_step import step
from refine_rl.policy.draw import Sampling, draw, draw_whole
from refine_rl.policy.drawer import Drawer
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose, begun
from refine_rl.settings import ModelSettings
from refine_rl.types import Trajectory

MakeModel = Callable[..., Path]
PURPOSE = Purpose(seed=1, step=1, name="rollout")
PROMPTS = make.prompts("hi", "say something about the cat", "the dog " * 7, "dog")
CHANGES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 6},
    "granite": {"residual_multiplier": 0.4},
}


def policy_of(make_model: MakeModel, kind: str, adapter: str = "lora", dtype: str = "float32") -> Policy:
    folder = make_model(kind, **CHANGES.get(kind, {}))
    policy = load_policy(
        ModelSettings(name=str(folder), dtype=dtype, device="cpu", adapter=adapter, rank=4)  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    policy.stop_ids = frozenset(range(5, 25))  # rows leave at different times
    return policy


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Three lanes, of a row or more; the threads in which tokens are drawn."""
    seen: set[str] = set()
    plain, threads = Drawer.from_uniform, torch.get_num_threads()

    def spy(self: Drawer, *args: Any) -> Any:
        seen.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1 or "lane" not in threading.current_thread().name
        return plain(self, *args)

    monkeypatch.setattr(Drawer, "from_uniform", spy)
    monkeypatch.setattr(decode_lanes, "ROWS", 1)
    torch.set_num_threads(3)
    yield seen
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)


GROUPS = (1, 9, 4, 5)


def speak(policy: Policy, sampling: Sampling, fast: bool = True) -> list[Trajectory]:
    policy.use_fast = fast  # type: ignore[attr-defined]
    groups: list[tuple[Begun, ...]] = [
        begun(policy.encode(p.messages), p, n) for p, n in zip(PROMPTS, GROUPS, strict=True)
    ]
    spoken = policy.speak(groups, sampling=sampling, purpose=PURPOSE)
    return [t for _, group in sorted(spoken, key=lambda found: found[0]) for t in group]


def require_same(mine: list[Trajectory], plain: list[Trajectory], off: float = 2e-5) -> None:
    for a, b in zip(mine, plain, strict=True):
        assert a.segments[1].token_ids == b.segments[1].token_ids
        assert a.segments[1].logprobs == pytest.approx(b.segments[1].logprobs, abs=off)


@pytest.mark.parametrize(
    ("kind", "adapter"), [("llama", "none"), ("qwen2", "lora"), ("qwen3", "lora"), ("mistral", "none")]
)
def test_lanes_of_fused_layers_are_the_plain_model(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, lanes: set[str], kind: str, adapter: str
) -> None:
    monkeypatch.setattr(decode, "BLOCK", 5)  # room is made three times
    policy = policy_of(make_model, kind, adapter)
    sampling = Sampling(max_tokens=18, temperature=0.9)
    mine = speak(policy, sampling)
    assert fused.agreed(policy.fast.body)  # type: ignore[attr-defined]
    assert {name.split("_")[0] for name in lanes} == {"MainThread", "lane"}
    assert len(lanes) == 3
    require_same(mine, speak(policy, sampling, fast=False))
    assert len({t.completion_tokens for t in mine}) > 5
    again = speak(policy, sampling)
    assert [t.segments for t in again] == [t.segments for t in mine]  # to the bit


@pytest.mark.parametrize("missing", ["program", "onednn", "merging"])
def test_whatever_is_missing_the_tokens_are_the_same(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, lanes: set[str], missing: str
) -> None:
    if missing == "program":
        monkeypatch.setattr(decode_lanes, "scripted", lambda function: None)
    elif missing == "onednn":
        monkeypatch.setattr(onednn, "_THERE", [False])
    else:  # adapters apart from the weights, side by side in one product
        monkeypatch.setattr(lora, "MERGED_BYTES", 1000)
    policy = policy_of(make_model, "qwen3")
    mine = speak(policy, Sampling(max_tokens=12))
    assert fused.agreed(policy.fast.body)  # type: ignore[attr-defined]
    assert len(lanes) == (1 if missing == "program" else 3)
    require_same(mine, speak(policy, Sampling(max_tokens=12), fast=False))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("gpt2", "its body: drop"),
        ("gemma3_text", "its embeddings"),
        ("phi3", "its layers: "),
        ("granite", "its layers compute something else"),  # it adds a part of what a layer says
    ],
)
def test_a_model_of_another_kind_keeps_to_its_own_modules(make_model: MakeModel, kind: str, why: str) -> None:
    policy = policy_of(make_model, kind)
    sampling = Sampling(max_tokens=6)
    mine = speak(policy, sampling)
    assert fused.why_not_fused(policy.fast.body).startswith(why)  # type: ignore[attr-defined]
    require_same(mine, speak(policy, sampling, fast=False))


def test_the_reference_is_sampled_without_its_adapter(make_model: MakeModel) -> None:
    policy = policy_of(make_model, "llama")
    sampling = Sampling(max_tokens=6)
    with policy.reference() as reference:
        base = speak(reference, sampling)
        require_same(base, speak(reference, sampling, fast=False))
    assert [t.segments for t in speak(policy, sampling)] != [t.segments for t in base]


def test_weights_are_those_of_now(make_model: MakeModel) -> None:
    policy = policy_of(make_model, "llama", "none")
    speak(policy, Sampling(max_tokens=2))
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter *= 1.2
    require_same(speak(policy, Sampling(max_tokens=6)), speak(policy, Sampling(max_tokens=6), fast=False))


@pytest.mark.parametrize("where", ["MainThread", "lane"])
def test_an_error_in_a_lane_ends_sampling(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, lanes: set[str], where: str
) -> None:
    policy = policy_of(make_model, "llama")
    calls: list[str] = []
    plain = Drawer.from_uniform

    def fail(self: Drawer, *args: Any) -> Any:
        calls.append(threading.current_thread().name)
        if len(calls) > 6 and calls[-1].startswith(where):
            raise ZeroDivisionError(where)
        return plain(self, *args)

    monkeypatch.setattr(Drawer, "from_uniform", fail)
    with pytest.raises(ZeroDivisionError, match=where):
        speak(policy, Sampling(max_tokens=9))


def test_a_large_model_is_not_copied(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(make_model, "llama")
    body = policy.fast.body  # type: ignore[attr-defined]
    with lora.at_rest(policy.model):
        assert fused.fused(body, torch.float32) is not None
        monkeypatch.setitem(fused.FUSED_BYTES, "cpu", 2 * 4 * (3 * 32 * 64 + 32 * (32 + 16 + 16 + 32)) - 1)
        assert fused.fused(body, torch.float32) is None
    require_same(speak(policy, Sampling(max_tokens=6)), speak(policy, Sampling(max_tokens=6), fast=False))


@torch.no_grad()
def test_all_columns_with_a_mask_are_those_that_are_written() -> None:
    """And what lies in the others does not matter."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def rows() -> Rows:
        own_k, own_v = some(5, 2, 8, 12), some(5, 2, 12, 8)
        return Rows(
            prefix_k=[prefix_k],
            prefix_v=[prefix_v],
            own_k=[torch.where(torch.arange(12) < 7, kept_k, own_k)],
            own_v=[torch.where(torch.arange(12)[:, None] < 7, kept_v, own_v)],
            table=torch.tensor([[0, 1, 2], [3, 4, 4]]),
            back=torch.tensor([0, 1, 2, 3, 4]),
            full=False,
            outside=torch.arange(3)[None] >= torch.tensor([[3], [2]]),
            empty=torch.tensor([0, 2, 1, 0, 2]),
            first=torch.tensor([3, 1, 2, 2, 0]),
        )

    prefix_k, prefix_v, kept_k, kept_v = some(4, 8, 3), some(4, 3, 8), some(5, 2, 8, 12), some(5, 2, 12, 8)
    q, k, v = some(5, 4, 8), some(5, 2, 8), some(5, 2, 8)
    for window in (0, 5):
        a, b = (attend(rows(), 0, q, k, v, 7, whole, 0.3, True, window) for whole in (False, True))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_programs_compute_what_the_functions_compute() -> None:
    assert scripted.scripted(step) is not None
    program = scripted.scripted(draw_whole)
    assert program is not None
    assert scripted.scripted(draw_whole) is program
    logits = 3 * torch.randn(7, 600, generator=torch.Generator().manual_seed(0))
    u = torch.linspace(0, 1, 8, dtype=torch.float64)[:-1]
    for temperature in (1.0, 0.7):
        want = draw_whole(logits, u, temperature)
        for got in (
            program(logits, u, temperature),
            draw(logits, u, Sampling(max_tokens=1, temperature=temperature)),
        ):
            assert all(map(torch.equal, got, want))
    assert scripted.scripted(lambda x: threading.current_thread()) is None


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_by_onednn(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w, b, other = (
        torch.randn(*s, generator=generator).to(dtype) for s in ((5, 24), (16, 24), (16,), (5, 16))
    )
    if not onednn.at_hand(x.device, dtype):
        pytest.skip("this torch has none")
    exact = x.double() @ w.double().T + b.double()
    off = {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    none = torch.empty(0)
    for weight in (w, onednn.packed(w)):
        for got, want in (
            (onednn.product(x, weight, b, "none"), exact),
            (onednn.product(x, weight, b, "swish"), torch.nn.functional.silu(exact)),
            (onednn.product(x, weight, none, "none"), exact - b.double()),
            (onednn.product_with(x, weight, b, other, "add"), exact + other.double()),
            (onednn.product_with(x, weight, b, other, "mul"), exact * other.double()),
        ):
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, atol=off, rtol=0)
    torch.testing.assert_close(onednn.linear(x, w, None).double(), exact - b.double(), atol=off, rtol=0)
    with torch.enable_grad():
        assert onednn.linear(x, w.clone().requires_grad_(), b).requires_grad
