"""Some of many, so that they are spread over all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(things: Sequence[T]) -> list[T]:
    """The things in an order of which every beginning is spread over all of them: by their numbers' bits from
    the last to the first.

    >>> evenly([0, 1, 2, 3, 4])
    [0, 4, 2, 1, 3]
    """
    bits = max(1, (len(things) - 1).bit_length())
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [things[number] for number in turned if number < len(things)]
