"""LoRA's product without peft's detours: the same value, in the model's own number format.

peft keeps a bfloat16 model's adapter in float32 (as it should: small updates would be lost otherwise) and
multiplies in float32 too, copying every input. Here the adapter's weights are rounded for the product and
only for it; where the processor multiplies bfloat16 fast, that is most of a LoRA step's cost.

While tokens are sampled, the product of a float32 model's adapter is added to a copy of its weights, so
that a token costs no more than without an adapter. In bfloat16 it is not: the sum would be rounded to the
weight's own steps, most of a small update would be gone, and the sampler would not be the trainer's model.
There the adapter's weights are rounded once instead of once a token.
"""

from __future__ import annotations

from collections.abc import Callable
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
        layer.whole = None  # base and adapter in one weight, or ...
        layer.rounded = None  # ... the adapter in the base's number format: see at_rest
        layer.forward = _lean(layer)
    return len(layers)


class at_rest:  # noqa: N801 - it is used as a function
    """Inside, the adapter does not change and no gradient reaches it: what its products need is made once,
    however often it is entered. The base weights are never touched."""

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[Any] = [m for m in model.modules() if hasattr(m, "whole")]
        self._made: list[tuple[torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None]] = []

    def __enter__(self) -> None:
        if not self._made:
            self._made = self._products()
        for layer, (whole, rounded) in zip(self._layers, self._made, strict=True):
            layer.whole, layer.rounded = whole, rounded

    def __exit__(self, *error: object) -> None:
        for layer in self._layers:
            layer.whole = layer.rounded = None

    @torch.no_grad()
    def _products(self) -> list[Any]:
        weights = [layer.base_layer.weight for layer in self._layers]
        merge = all(w.dtype == torch.float32 for w in weights)
        merge = merge and sum(w.numel() for w in weights) * 4 <= MERGED_BYTES
        made: list[Any] = []
        for layer, weight in zip(self._layers, weights, strict=True):
            a, b = _rounded(layer, weight.dtype)
            made.append((torch.addmm(weight, b, a), None) if merge else (None, (a, b)))
        return made


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


def _rounded(layer: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A and scaling B."""
    (name,) = layer.lora_A
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return a.to(dtype), (b * layer.scaling[name]).to(dtype)


def _lean(layer: Any) -> Callable[..., torch.Tensor]:
    (name,) = layer.lora_A
    base, dropout, plain = layer.base_layer, layer.lora_dropout[name], type(layer).forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or layer.disable_adapters or layer.merged:
            return plain(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
        if layer.whole is not None:
            return linear(x, layer.whole, base.bias)
        a, b = layer.rounded or _rounded(layer, x.dtype)
        out = linear(x, base.weight, base.bias)
        inner = linear(dropout(x) if dropout.training else x, a)
        return torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), b.t()).view(out.shape)

    return forward
