"""Gradient checkpointing: a layer keeps its input alone, and the backward pass computes the layer again.

transformers has a switch for this, but it acts in train mode only, which would turn dropout on; and where the
layer is computed again, it would use the attention of that moment, not the one of the forward pass
(prefix.py sets its own for the time of a call). So the layers' forward is wrapped here.

The backward pass comes when LoRA's dropout is off again (policy.dropout ends with the forward pass). A layer
is computed again with the dropout that it had, which follows from its key: the same elements are dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from refine_rl.policy.dropout import Dropping, dropping, now
from refine_rl.policy.prefix import NAME, attention_configs, packed_mode


def recompute_layers(model: nn.Module) -> int:
    """Wraps every layer that transformers itself would checkpoint; how many there are."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
    forward = type(layer).forward
    if not torch.is_grad_enabled():
        return forward(layer, *args, **kwargs)
    configs = attention_configs(layer)
    packed = any(config._attn_implementation_internal == NAME for config in configs)
    dropped = now()
    return checkpoint(
        forward,
        layer,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing in a layer draws from it
        context_fn=lambda: (contextlib.nullcontext(), _as_it_was(configs if packed else [], dropped)),
        **kwargs,
    )


@contextlib.contextmanager
def _as_it_was(packed: Sequence[Any], dropped: Dropping | None) -> Iterator[None]:
    """Packed attention where these configs had it, and the dropout of the forward pass."""
    with packed_mode(packed), dropping(dropped):
        yield
