"""LoRA's dropout: exact masks, threads, and the layers that get it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from refine_rl.policy.dropout import Dropping, LoraDropout, dropping
from refine_rl.policy.load import load_policy
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
X = torch.arange(1.0, 10_001).view(100, 100)


def dropped(rate: float, seed: int, number: int = 0) -> torch.Tensor:
    with dropping(Dropping(rate=rate, seed=seed)):
        return LoraDropout(number)(X)  # type: ignore[no-any-return]


def test_what_stays_is_divided_by_its_share() -> None:
    out = dropped(0.25, seed=1)
    stays = out != 0
    torch.testing.assert_close(out[stays], X[stays] / 0.75)
    assert float(stays.float().mean()) == pytest.approx(0.75, abs=0.02)


def test_it_follows_from_seed_and_layer() -> None:
    one = dropped(0.5, seed=1)
    torch.manual_seed(99)
    assert torch.equal(one, dropped(0.5, seed=1))
    assert not torch.equal(one, dropped(0.5, seed=2))
    assert not torch.equal(one, dropped(0.5, seed=1, number=1))
    assert LoraDropout(0)(X) is X


def test_a_thread_has_its_own() -> None:
    inside, leave = threading.Event(), threading.Event()
    found = {}

    def other() -> None:
        with dropping(Dropping(rate=0.5, seed=2)):
            inside.set()
            leave.wait(60)
            found["other"] = LoraDropout(0)(X)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(60)
    with dropping(Dropping(rate=0.5, seed=1)):
        found["here"] = LoraDropout(0)(X)
    found["after"] = LoraDropout(0)(X)
    leave.set()
    thread.join()
    assert torch.equal(found["here"], dropped(0.5, seed=1))
    assert torch.equal(found["other"], dropped(0.5, seed=2))
    assert found["after"] is X


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # lean LoRA layers, and peft's own on Conv1D
def test_each_layer_of_a_model_drops_something_else(make_model: MakeModel, kind: str) -> None:
    policy = load_policy(ModelSettings(name=str(make_model(kind)), device="cpu"))  # rate 0 in its settings
    numbers = [m.number for m in policy.model.modules() if isinstance(m, LoraDropout)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 1
    for name, p in policy.trainable().items():  # B is 0 at first, and what A sees would not show
        if "lora_B" in name:
            p.data.fill_(0.1)
    ids = torch.tensor([[5, 6, 7]])
    plain = policy.forward(input_ids=ids).logits
    with policy.dropout(0.5, seed=1):
        first = policy.forward(input_ids=ids).logits
    with policy.dropout(0.5, seed=1):
        again = policy.forward(input_ids=ids).logits
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    assert torch.equal(plain, policy.forward(input_ids=ids).logits)
