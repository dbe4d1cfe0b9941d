"""Memory that a step has let go of stays with the process, on a processor with the GNU C library.

A micro-batch's tensors are some hundred megabytes, which the allocator would give back to the system each
time and ask for again: the system then hands out every page once more, filled with zeros. And each lane's
thread would keep memory of its own.
"""

from __future__ import annotations

import ctypes
import os
import sys

KEPT = 1 << 30
"""Bytes: unused memory at the end of the heap stays up to here, and larger pieces are given back at once."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h, mallopt(3)

_OWN_WORDS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_memory() -> bool:
    """Whether it stays from now on. Not where the environment says how memory is to be given."""
    if not sys.platform.startswith("linux") or any(name.startswith(_OWN_WORDS) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(what, n) for what, n in ((_TRIM_THRESHOLD, KEPT), (_MMAP_THRESHOLD, KEPT), (_ARENA_MAX, 1))
    )
