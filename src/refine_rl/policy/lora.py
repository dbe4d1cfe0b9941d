"""LoRA's product without peft's detours: the same value, in the model's own number format.

peft keeps a bfloat16 model's adapter in float32 (as it should: small updates would be lost otherwise) and
multiplies in float32 too, copying every input. Here the adapter's weights are rounded for the product and
only for it; where the processor multiplies bfloat16 fast, that is most of a LoRA step's cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear


def make_lean(model: nn.Module) -> int:
    """Replaces the forward pass of every plain LoRA layer on a linear layer; how many there were.

    Layers of another kind (Conv1D, several adapters, DoRA, a bias of the adapter's own) stay as they are.
    """
    from peft.tuners.lora import Linear

    layers = [m for m in model.modules() if isinstance(m, Linear) and _is_plain(m)]
    for layer in layers:
        layer.forward = _lean(layer)
    return len(layers)


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
        out = linear(x, base.weight, base.bias)
        dropped = dropout(x) if dropout.training else x
        inner = linear(dropped, a.weight.to(x.dtype))
        return out + linear(inner, (b.weight * scaling[name]).to(x.dtype))

    return forward
