"""Have two copies of a model the same weights? A number that says so, for a reading of each weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""A whole number of as many bytes."""


def check_sum(tensors: Mapping[str, torch.Tensor]) -> int:
    """The sum of all bits, read as whole numbers, each tensor with a factor of its own: the same for the same
    bits on any machine. It finds an accident, not an intention.

    >>> a, b = torch.zeros(2), torch.ones(2)
    >>> check_sum({"a": a, "b": b}) == check_sum({"b": b.clone(), "a": a.clone()})
    True
    >>> check_sum({"a": a, "b": b}) == check_sum({"a": b, "b": a})
    False
    """
    return sum((2 * n + 1) * _sum(tensor) for n, (_, tensor) in enumerate(sorted(tensors.items())))


def _sum(tensor: torch.Tensor) -> int:
    words = tensor.detach().contiguous().flatten().view(_WORDS[tensor.element_size()])
    return int(words.sum(dtype=torch.int64))
