"""Functions on tensors as programs of torch's own (TorchScript), which run without Python's lock.

So several threads can each work on a part of the rows. Nothing is optimised in them: they compute what the
function computes, to the bit. torch calls TorchScript deprecated in favour of its compiler, which wants a C++
compiler on every machine; where it is gone, the function itself is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def scripted(function: F) -> F | None:
    """The program of a function at the top of a module, made once; None where torch cannot make it."""
    found: F | None = _script(function)
    return found


@cache
def _script(function: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.jit.script(function)
        except Exception:  # whatever a version of torch to come says of it
            return None


def lockless(function: Callable[..., T], *arguments: Any) -> T:
    """What the function gives, by its program if there is one."""
    program = scripted(function)
    if program is None:
        return function(*arguments)
    with unoptimised():
        return program(*arguments)


def unoptimised() -> Any:
    """Inside, in this thread, programs run as they are written, from the first time on."""
    return torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
