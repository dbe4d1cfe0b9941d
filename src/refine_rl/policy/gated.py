"""The gated activation of a transformer's layer, silu(gate) * up, with a backward pass of its own.

Both inputs are kept, and nothing else: silu(gate) is made again. With g the gradient of the product,
d up = g silu(gate) and d gate = g up silu'(gate).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu

_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""The modules of a layer of this form, in the names of transformers."""


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        for_up = silu(gate).mul_(grad)
        for_gate: torch.Tensor = torch.ops.aten.silu_backward(grad, gate)
        return for_gate.mul_(up), for_up


def lean_gates(model: nn.Module) -> int:
    """Gives every gated layer whose activation is SiLU that forward pass; how many there were. Whether it
    computes just that is asked of the module itself."""
    lean = 0
    for module in model.modules():
        kind = type(module)
        if kind not in _LEAN.values() and _has_parts(module) and _same(module):
            module.__class__ = _lean_class(kind)
            lean += 1
    return lean


def _has_parts(module: Any) -> bool:
    if sorted(name for name, _ in module.named_children()) != sorted(_PARTS):
        return False
    first = next(module.parameters())
    return hasattr(module.gate_proj, "in_features") and not first.is_meta


@torch.no_grad()
def _same(module: Any) -> bool:
    weight = module.gate_proj.weight
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, module.gate_proj.in_features, generator=generator).to(weight.device, dtype)
    try:
        want: torch.Tensor = module(x)
        # A limit or a scale of its own would show at larger inputs, too.
        return torch.equal(want, _forward(module, x)) and torch.equal(
            module(99 * x), _forward(module, 99 * x)
        )
    except (RuntimeError, TypeError):  # one that asks for more, or for another format
        return False


def _forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    if gate.dtype != up.dtype:
        gated = silu(gate) * up
    elif torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        gated = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    else:
        gated = silu(gate).mul_(up)
    found: torch.Tensor = module.down_proj(gated)
    return found


_LEAN: dict[type[nn.Module], type[nn.Module]] = {}


def _lean_class(plain: type[nn.Module]) -> type[nn.Module]:
    """A class, as norm.py makes them."""
    if plain not in _LEAN:
        _LEAN[plain] = type(plain.__name__, (plain,), {"forward": _forward})
    return _LEAN[plain]
