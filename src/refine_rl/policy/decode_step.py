"""A token of many rows through the layers of a model, in as few operations as there are.

Products that have the same input are one product, its weights laid behind one another; queries and keys are
normed and turned to their positions together. The functions are written so that torch can compile them, as
those of decode_look.py.
"""

from typing import NamedTuple

import torch

from refine_rl.policy import onednn
from refine_rl.policy.decode_look import Rows, attend


class Product(NamedTuple):
    """x weight^T + bias, and an adapter's x a^T b^T; what is empty is not there."""

    weight: torch.Tensor  # [out, in], packed where oneDNN multiplies
    bias: torch.Tensor  # [out]
    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [out, r]
    dnn: bool


class Layer(NamedTuple):
    """A decoder layer: x + out(attention(into(norm(x)))), then x + down(silu(gate) up)."""

    norm: torch.Tensor  # [hidden]
    into: Product  # queries, keys and values
    heads: torch.Tensor  # [H + K, D]: the weights of the norms of queries and keys; empty without them
    out: Product
    after: torch.Tensor  # the second norm
    inner: list[Product]  # gate and up, as one, or as two that oneDNN joins
    down: Product
    H: int
    K: int
    scale: float
    window: int
    eps: float
    heads_eps: float


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last dimension, as norm.py computes it on this device; `weight` is one for all, [n],
    or one for each head, [heads, n]."""
    if x.is_cuda and weight.dtype == x.dtype:
        if weight.dim() == 1:
            return torch.rms_norm(x, [x.shape[-1]], weight, eps)
        return torch.rms_norm(x, [x.shape[-1]], None, eps).mul_(weight)
    inverse = torch.linalg.vector_norm(x, 2, [-1], True, dtype=torch.float32)
    inverse = inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y: torch.Tensor = (x * inverse).to(x.dtype)
    return y.mul_(weight) if weight.dtype == y.dtype else torch.mul(y, weight)


def product(x: torch.Tensor, by: Product) -> torch.Tensor:
    """[R, in] -> [R, out], in the weights' format."""
    x = x.to(by.weight.dtype)
    if by.dnn:
        found = onednn.product(x, by.weight, by.bias, "none")
    elif len(by.bias):
        found = torch.addmm(by.bias, x, by.weight.t())
    else:
        found = torch.mm(x, by.weight.t())
    return found.addmm_(torch.mm(x, by.a.t()), by.b.t()) if len(by.a) else found


def added(x: torch.Tensor, to: torch.Tensor, by: Product) -> torch.Tensor:
    """The product and what it is added to."""
    if by.dnn and not len(by.a) and x.dtype == to.dtype:
        return onednn.product_with(x, by.weight, by.bias, to, "add")
    return to + product(x, by)


def asks(
    x: torch.Tensor, layer: Layer, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [R, H, D], keys and values [R, K, D] of hidden states [R, hidden]; cos and sin are [R, 1, D],
    the sines of the first half with a minus."""
    H, K = layer.H, layer.K
    made = product(rms_norm(x, layer.norm, layer.eps), layer.into).view(len(x), H + 2 * K, -1)
    both, value = made[:, : H + K], made[:, H + K :]
    if len(layer.heads):
        both = rms_norm(both, layer.heads, layer.heads_eps)
    turned = torch.roll(both, [both.shape[-1] // 2], [-1])
    both = torch.addcmul(both * cos, turned, sin).to(made.dtype)
    return both[:, :H], both[:, H:], value


def answers(x: torch.Tensor, found: torch.Tensor, layer: Layer) -> torch.Tensor:
    """The layer's hidden states [R, hidden], from those before it and what attention has found, [R, H D]."""
    x = added(found, x, layer.out)
    y = rms_norm(x, layer.after, layer.eps)
    gate = layer.inner[0]
    if len(layer.inner) == 2:
        up, y = layer.inner[1], y.to(gate.weight.dtype)
        inner = onednn.product(y, gate.weight, gate.bias, "swish")
        inner = onednn.product_with(y, up.weight, up.bias, inner, "mul")
    else:
        both = product(y, gate)
        n = both.shape[-1] // 2
        inner = torch.nn.functional.silu(both[:, :n]).mul_(both[:, n:])
    return added(inner, x, layer.down)


def step(
    x: torch.Tensor,
    layers: list[Layer],
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: Rows,
    end: int,
    whole: bool,
    early: bool,
) -> torch.Tensor:
    """Hidden states behind all layers of the token in column `end` of each row, [R, hidden] of its embedding;
    its keys and values are put there."""
    for n, layer in enumerate(layers):
        q, k, v = asks(x, layer, cos, sin)
        found = attend(rows, n, q, k, v, end, whole, layer.scale, early, layer.window)
        x = answers(x, found.flatten(1), layer)
    return x
