"""LoRA's product without peft's detours: the same value, in the model's own number format.

peft keeps a bfloat16 model's adapter in float32 (as it should: small updates would be lost otherwise) and
multiplies in float32 too, copying every input. Here the adapter's weights are rounded for the product and
only for it; where the processor multiplies bfloat16 fast, that is most of a LoRA step's cost.

While tokens are sampled, the product of a float32 model's adapter is added to a copy of its weights, so
that a token costs no more than without an adapter. In bfloat16 it is not: the sum would be rounded to the
weight's own steps, most of a small update would be gone, and the sampler would not be the trainer's model.
There the adapter's weights are rounded once instead of once a token.

A quantised base is unpacked for each product (quantised.py); while tokens are sampled, once, where the whole
weights are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from refine_rl.policy.products import linear
from refine_rl.policy.quantised import is_quantised, number_format, quantised_layers, whole_weight

MERGED_BYTES = 1 << 30
"""A copy of the adapted weights larger than this is not made."""

UNPACKED_BYTES = 1 << 28
"""Unpacked weights larger than this are not kept: whoever quantises a model is short of memory."""


def make_lean(model: nn.Module) -> int:
    """Replaces the forward pass of every plain LoRA layer on a linear layer; how many there were.

    Layers of another kind (Conv1D, several adapters, DoRA, a bias of the adapter's own) stay as they are.
    """
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [m for m in model.modules() if isinstance(m, LoraLayer) and _is_plain(m)]
    for layer in layers:
        layer.whole = None  # base and adapter in one weight, or ...
        layer.rounded = None  # ... the adapter in the base's number format: see at_rest
        layer.forward = _lean(layer)
    return len(layers)


class at_rest:  # noqa: N801 - it is used as a function
    """Inside, the adapter does not change and no gradient reaches it: what its products need is made once,
    however often it is entered. The base weights are never touched."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._made: list[tuple[Any, str, Any]] = []  # a layer, and what it has in here

    def __enter__(self) -> None:
        if not self._made:
            self._made = self._products()
        for layer, name, value in self._made:
            setattr(layer, name, value)

    def __exit__(self, *error: object) -> None:
        for layer, name, _ in self._made:
            setattr(layer, name, None)

    @torch.no_grad()
    def _products(self) -> list[tuple[Any, str, Any]]:
        from torch.distributed.tensor import DTensor

        adapted: list[Any] = [m for m in self._model.modules() if hasattr(m, "whole")]
        packed = dict.fromkeys(layer for _, layer in quantised_layers(self._model))
        few = _bytes(packed) <= UNPACKED_BYTES
        spread = any(isinstance(layer.base_layer.weight, DTensor) for layer in adapted)  # shard.py
        merge = few and all(number_format(layer.base_layer) == torch.float32 for layer in adapted)
        merge = merge and not spread and _bytes(layer.base_layer for layer in adapted) <= MERGED_BYTES
        made: list[tuple[Any, str, Any]] = []
        for layer in adapted:
            base, (a, b) = layer.base_layer, _rounded(layer, number_format(layer.base_layer))
            if merge:
                made.append((layer, "whole", torch.addmm(whole_weight(base), b, a)))
                packed.pop(base, None)
            else:
                made.append((layer, "rounded", (a, b)))
        return made + [(layer, "unpacked", whole_weight(layer)) for layer in packed if few]


def _bytes(layers: Iterable[Any]) -> int:
    """Of the layers' whole weights in float32."""
    return sum(4 * int(layer.in_features) * int(layer.out_features) for layer in layers)


def _is_plain(layer: Any) -> bool:
    names = list(layer.lora_A)
    return (
        len(names) == 1
        and list(layer.active_adapters) == names
        and not layer.lora_variant
        and (type(layer.base_layer) is nn.Linear or is_quantised(layer.base_layer))
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
    quantised = is_quantised(base)

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or layer.disable_adapters or layer.merged:
            return plain(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
        if layer.whole is not None:
            return linear(x, layer.whole, base.bias)
        a, b = layer.rounded or _rounded(layer, x.dtype)
        out = base(x) if quantised else linear(x, base.weight, base.bias)
        inner = linear(dropout(x), a)
        return torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), b.t()).view(out.shape)

    return forward
