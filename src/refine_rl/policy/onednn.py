"""Products without gradient on a processor, by oneDNN.

In float32 torch multiplies with Intel's MKL, which on other makers' processors leaves half of their vector
width unused: an AMD EPYC with AVX-512 reaches 107 GFLOP/s a core with it, and 250 with oneDNN, which torch
brings along as well and uses for bfloat16. The numbers are float32 all the way either way. Weights may be
packed beforehand for it, which is worth a fifth at few rows. The functions are those that torch's own
compiler calls, and can be compiled themselves (scripted.py): so types are written as it reads them, and no
comment begins as one on a type does.
"""

from typing import Optional, Union

import torch

FORMATS = (torch.float32, torch.bfloat16)

LEAST = 1 << 22
"""Multiplications of a product of training that is worth it: each new number of rows costs oneDNN up to a
millisecond before it multiplies."""


def at_hand(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products in this format are to be had here."""
    return device.type == "cpu" and dtype in FORMATS and _there()


def packed(weight: torch.Tensor) -> torch.Tensor:
    """A weight [out, in] laid out for `product`."""
    found: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return found


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, then: str) -> torch.Tensor:
    """x weight^T + bias, [N, in] and [out, in] -> [N, out]; an empty bias is none. `then` is "none", or
    "swish": silu of it."""
    nothing: list[Optional[Union[int, float, complex]]] = []  # noqa: UP007, UP045
    b = bias if len(bias) else None
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, b, then, nothing, "")
    return found


def product_with(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, other: torch.Tensor, how: str
) -> torch.Tensor:
    """The product and `other`, [N, out], together: `how` is "add" or "mul"."""
    b = bias if len(bias) else None
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, other, weight, b, how)
    return found


def dense_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b^T, [N, K] and [M, K] -> [N, M]; all three may be transposed, but have no gaps."""
    none = torch.empty(0)
    # Its first operand is copied where it is transposed: better the smaller of two.
    if len(b) < len(a) and not a.is_contiguous():
        return product(b, a, none, "none").t()
    return product(a, b, none, "none")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """torch.nn.functional.linear, x [N, in], by oneDNN where it is at hand and no gradient is wanted."""
    if torch.is_grad_enabled() or not at_hand(x.device, x.dtype):
        return torch.nn.functional.linear(x, weight, bias)
    return product(x, weight, torch.empty(0) if bias is None else bias, "none")


_THERE: list[bool] = []


def _there() -> bool:
    """Whether this torch has these functions, and they multiply: asked once."""
    if not _THERE:
        one, none = torch.eye(16), torch.empty(0)
        try:
            found = product_with(one, packed(one), none, product(one, packed(one), none, "none"), "add")
            _THERE.append(torch.equal(found, 2 * one))
        except (AttributeError, RuntimeError):  # built without it, or with other functions
            _THERE.append(False)
    return _THERE[0]
