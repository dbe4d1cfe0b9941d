"""Micro-batches side by side: the same results in the same order, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from refine_rl.policy.load import load_policy
from refine_rl.policy.prefix import NAME, packed_mode
from refine_rl.settings import ModelSettings
from refine_rl.training import lanes as lanes_module
from refine_rl.training.lanes import Gradients, in_lanes, lanes_of

pytestmark = pytest.mark.usefixtures("two_threads")

MakeModel = Callable[..., Path]


def test_results_come_in_the_order_of_the_jobs() -> None:
    last = threading.Event()

    def work(job: int, lane: int) -> tuple[int, int, str]:
        if job == 3:
            last.set()
        elif job == 0:  # the first one ends when the other lane is through
            assert last.wait(60)
        return job, lane, threading.current_thread().name

    found = in_lanes(work, 5, 2)
    assert [f[:2] for f in found] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    assert found[0][2] == threading.current_thread().name
    assert in_lanes(work, 0, 2) == []


def test_lanes_run_at_the_same_time_on_their_share_of_the_threads() -> None:
    meet = threading.Barrier(2, timeout=60)

    def work(job: int, lane: int) -> int:
        meet.wait()
        return torch.get_num_threads()

    assert in_lanes(work, 2, 2) == [1, 1]
    assert torch.get_num_threads() == 2
    assert in_lanes(lambda job, lane: torch.get_num_threads(), 2, 1) == [2, 2]


def test_a_thread_computes_gradients_exactly_if_its_caller_does() -> None:
    assert in_lanes(lambda job, lane: torch.is_grad_enabled(), 2, 2) == [True, True]
    with torch.no_grad():
        assert in_lanes(lambda job, lane: torch.is_grad_enabled(), 2, 2) == [False, False]


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_ends_all_lanes(broken: int) -> None:
    done: list[int] = []
    raised = threading.Event()

    def work(job: int, lane: int) -> None:
        if lane == broken:
            raised.set()
            raise ValueError(f"job {job}")
        assert raised.wait(60)
        time.sleep(0.001)  # all of them would take a minute, and this lane hears of it in a moment
        done.append(job)

    with pytest.raises(ValueError, match=f"job {broken}"):
        in_lanes(work, 120_000, 2)
    assert len(done) < 60_000
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]
    assert torch.get_num_threads() == 2


def test_gradients_are_added_in_the_order_of_the_lanes() -> None:
    a, b, unused = (torch.nn.Parameter(torch.tensor([x])) for x in (2.0, 3.0, 4.0))
    gradients = Gradients([a, b, unused], 2)
    losses = [a * b, a * a, 10 * b]
    in_lanes(lambda job, lane: gradients.add(lane, losses[job]), 3, 2)
    gradients.hand_over()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.item(), b.grad.item()) == (3.0 + 4.0, 2.0 + 10.0)
    assert unused.grad is None


def test_how_many_lanes(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(ModelSettings(name=str(make_model("llama")), device="cpu", adapter="lora"))
    assert lanes_of(policy) == 2
    torch.set_num_threads(16)
    assert lanes_of(policy) == 4
    policy.use_fast = False
    assert lanes_of(policy) == 1
    policy.use_fast = True
    size = sum(p.numel() * p.element_size() for p in policy.trainable().values())
    monkeypatch.setattr(lanes_module, "GRADIENT_BYTES", 4 * size - 1)
    assert lanes_of(policy) == 1


def test_packed_mode_ends_with_the_last_thread_inside() -> None:
    class Config:
        _attn_implementation_internal = "sdpa"

    config = Config()
    first, second = packed_mode([config]), packed_mode([config])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert config._attn_implementation_internal == NAME
    second.__exit__(None, None, None)
    assert config._attn_implementation_internal == "sdpa"
