"""LoRA's product without peft's detours: the same value, in the model's own number format.

peft keeps a bfloat16 model's adapter in float32 (as it should: small updates would be lost otherwise) and
multiplies in float32 too, copying every input. Here the adapter's weights are rounded for the product and
only for it; where the processor multiplies bfloat16 fast, that is most of a LoRA step's cost.

While tokens are sampled, the product of a float32 model's adapter is added to a copy of its weights, so
that a token costs no more than without an adapter. In bfloat16 it is not: the sum would be rounded to the
weight's own steps, most of a small update would be gone, and the sampler would not be the trainer's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

MERGED_BYTES = 1 << 30
"""A copy of the adapted weights larger than this is not made."""


def make_lean(model: nn.Module) -> int:
    """Replaces the forward pass of every plain LoRA layer on a linear layer; how many there were.

    Layers of another kind (Conv1D, several adapters, DoRA, a bias of the adapter's own) stay as they are.
    """
    from peft.tuners.lora import Linear

    layers: list[Any] = [m for m in model.modules() if isinstance(m, Linear) and _is_plain(m)]
    for layer in layers:
        layer.whole = None  # base and adapter in one weight, while they are merged
        layer.forward = _lean(layer)
    return len(layers)


@contextmanager
def merged(model: nn.Module) -> Iterator[bool]:
    """Lean layers multiply by one weight, W + scaling B A, in here; W itself is never touched. Whether they
    do: not in bfloat16, not where the copies are too large. Gradients do not reach the adapter."""
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "whole")]
    weights = [layer.base_layer.weight for layer in layers]
    small = sum(w.numel() for w in weights) * 4 <= MERGED_BYTES
    if not layers or not small or any(w.dtype != torch.float32 for w in weights):
        yield False
        return
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                (name,) = layer.lora_A
                a, b = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
                layer.whole = torch.addmm(weight, b, a, alpha=layer.scaling[name])
        yield True
    finally:
        for layer in layers:
            layer.whole = None


def _is_plain(layer: Any) -> bool:
    names = list(layer.lora_A)
    return (
        len(names) == 1
        and list(layer.active_adapters) == names
        and not layer.lora_variant
        and type(layer.base_layer) is nn.Linear
        and layer.lora_A[names[0]].bias is None
        and layer.lora_B[names[0]].bias is None
    )


def _lean(layer: Any) -> Callable[..., torch.Tensor]:
    (name,) = layer.lora_A
    base, a, b, scaling = layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling
    dropout, plain = layer.lora_dropout[name], type(layer).forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or layer.disable_adapters or layer.merged:
            return plain(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
        if layer.whole is not None:
            return linear(x, layer.whole, base.bias)
        out = linear(x, base.weight, base.bias)
        dropped = dropout(x) if dropout.training else x
        inner = linear(dropped, a.weight.to(x.dtype))
        return out + linear(inner, (b.weight * scaling[name]).to(x.dtype))

    return forward
