"""A token of many rows through the layers of a model, in as few operations as there are.

Products that have the same input are one product, its weights laid behind one another; queries and keys are
normed and turned to their positions together. The functions are written so that torch can compile them, as
those of decode_look.py.
"""

from typing import NamedTuple

import torch

from refine_rl.policy.decode_look import Rows, attend


class Product(NamedTuple):
    """x weight^T + bias, and an adapter's x a^T b^T; what is empty is not there."""

    weight: torch.Tensor  # [out, in]
    bias: torch.Tensor  # [out]
    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [out, r]


class Layer(NamedTuple):
    """A decoder layer: x + out(attention(into(norm(x)))), then x + down(silu(gate) up)."""

    norm: torch.Tensor  # [hidden]
    into: Product  # queries, keys and values
    heads: torch.Tensor  # [H + K, D]: the weights of the norms of queries and keys; empty without them
    out: Product
    after: torch.Tensor  # the second norm
    inner: Product  # gate and up
    down: Product
    H: int
    K: int
    scale: float
    window: int
    eps: float
    heads_eps: float


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """norm._scaled(x, weight, norm._inverse(x, eps))."""
    inverse = torch.linalg.vector_norm(x, 2, [-1], True, dtype=torch.float32)
    inverse = inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y: torch.Tensor = (x * inverse).to(x.dtype)
    return y.mul_(weight) if weight.dtype == y.dtype else torch.mul(y, weight)


def product(x: torch.Tensor, by: Product) -> torch.Tensor:
    """[R, in] -> [R, out], in the weights' format."""
    x = x.to(by.weight.dtype)
    found = torch.addmm(by.bias, x, by.weight.t()) if len(by.bias) else torch.mm(x, by.weight.t())
    if len(by.a):
        found = found.addmm_(torch.mm(x, by.a.t()), by.b.t())
    return found


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
    x = x + product(found, layer.out)
    both = product(rms_norm(x, layer.after, layer.eps), layer.inner)
    n = both.shape[-1] // 2
    inner = torch.nn.functional.silu(both[:, :n]).mul_(both[:, n:])
    return x + product(inner, layer.down)


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
