"""The products of training on a processor in float32, forward and backward, by oneDNN (onednn.py).

torch multiplies in float32 by MKL, which leaves half of the vector width of some processors unused; bfloat16
it multiplies by oneDNN itself. Both sums are float32, in another order. Small products stay torch's.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from refine_rl.policy.onednn import LEAST, at_hand, dense_product, product
from refine_rl.policy.onednn import linear as without_gradient


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # What no gradient needs is not kept.
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        return product(x, weight, x.new_empty(0) if bias is None else bias, "none")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        for_x = for_weight = None
        if weight is not None:
            for_x = times(flat, weight.T).view(*grad.shape[:-1], -1)
        if x is not None:
            for_weight = times(flat.T, x.flatten(0, -2).T).contiguous()
        return for_x, for_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """torch.nn.functional.linear, x [..., in] -> [..., out]."""
    if not _pays(x, weight) or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(x, weight, bias)
    if torch.is_grad_enabled():
        found: torch.Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return without_gradient(x, weight, bias)


def times(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b^T without gradient, [N, K] and [M, K] -> [N, M]; all three may be transposed views."""
    return dense_product(a, b) if _pays(a, b) else a @ b.T


def _pays(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.numel() * len(b) >= LEAST
        and _dense(a)
        and _dense(b)
        and at_hand(a.device, a.dtype)
    )


def _dense(x: torch.Tensor) -> bool:
    """Whether no gaps are between its rows, or its columns: with gaps in both oneDNN takes a hundred times as
    long."""
    return x.is_contiguous() or (x.dim() == 2 and x.T.is_contiguous())


def fast_products(model: nn.Module) -> int:
    """Gives every plain linear layer these products; how many there were."""
    layers: list[Any] = [m for m in model.modules() if type(m) is nn.Linear]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return linear(x, self.weight, self.bias)
