"""LoRA's dropout: what a layer drops follows from the micro-batch's key and the layer alone.

torch's own dropout draws from one generator of the whole process: what is dropped would hang on the order in
which micro-batches are worked, and lanes (training/lanes.py) could not work several at once. Nor does it
matter here whether a layer is computed once or again in the backward pass (recompute.py).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from refine_rl.randomness import generator, torch_seed

_PARTS = 1 << 16
"""A rate is rounded to this part of 1, and what stays is divided by the rounded one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropping:
    """What is dropped: each element of a LoRA layer's input with probability `rate`, by `seed`."""

    rate: float
    seed: int


class _Now(threading.local):
    dropping: Dropping | None = None


_NOW = _Now()


def now() -> Dropping | None:
    """What this thread drops; None: nothing."""
    return _NOW.dropping


@contextlib.contextmanager
def dropping(what: Dropping | None) -> Iterator[None]:
    """Inside, this thread's forward passes drop as `what` says; other threads do not notice."""
    before, _NOW.dropping = _NOW.dropping, what
    try:
        yield
    finally:
        _NOW.dropping = before


class LoraDropout(nn.Module):
    """Stands where peft has its dropout; `number` tells the layers of a model apart."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x with some elements 0 and the others divided by the share that stays; x itself where nothing is
        dropped."""
        what = now()
        if what is None or what.rate == 0:
            return x
        # Made anew for each pass: the layer that is computed again drops the same.
        share = round(what.rate * _PARTS) / _PARTS
        dropped = _drawn(x, share, what.seed, self.number)
        # The backward pass keeps nothing but a byte an element.
        return x.masked_fill(dropped, 0.0) * (1 / (1 - share))


def _drawn(x: torch.Tensor, share: float, seed: int, layer: int) -> torch.Tensor:
    """Which elements are dropped, bool of x's shape."""
    if x.device.type != "cpu":
        own = torch.Generator(x.device).manual_seed(torch_seed(seed, "layer", layer))
        return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(share, generator=own)
    # 16 random bits an element: on a processor torch draws for six times as long, a fifth of a step.
    words = generator(seed, "layer", layer).integers(2**64, size=-(-x.numel() // 4), dtype=np.uint64)
    bits = torch.from_numpy(words.view(np.int16)[: x.numel()])
    return bits.view(x.shape) < int(share * _PARTS) - _PARTS // 2


def own_dropout(model: nn.Module) -> None:
    """Puts `LoraDropout` into every LoRA layer of `model`, whatever rate its adapter was made with."""
    from peft.tuners.lora import LoraLayer

    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for number, layer in enumerate(layers):
        for name in layer.lora_dropout:
            layer.lora_dropout[name] = LoraDropout(number)
