"""Randomness as a function of (seed, step, prompt, member, purpose), never of what ran before.

Every draw comes from a counter-based generator (Philox 4x64, Salmon et al. 2011) whose key is a
hash of what the draw is for. So a resumed run needs no generator state, and any group can be made
again alone.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: str | int) -> np.random.Generator:
    """A generator that depends on `key` alone.

    >>> generator(0, "order", 3).integers(100) == generator(0, "order", 3).integers(100)
    np.True_
    """
    digest = hashlib.blake2b("\x1f".join(map(repr, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def uniforms(count: int, *, seed: int, step: int, prompt_id: str, member: int, purpose: str) -> np.ndarray:
    """`count` draws from [0, 1), float64 [T]: the t-th one decides the t-th token of that member."""
    return generator(seed, step, prompt_id, member, purpose).random(count)


def torch_seed(*key: str | int) -> int:
    """A seed for torch's own generator (initial adapter weights, dropout)."""
    return int(generator(*key).integers(2**62))
