"""Who does which part of some work: the same on every run, and about as much for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate


def dealt(work: Sequence[float], ranks: int, held: Mapping[int, int] | None = None) -> list[int]:
    """The rank of each piece: the largest first, each to whoever has least. `held` pieces stay where they
    are.

    >>> dealt([1, 5, 2, 4], 2), dealt([1, 1, 1], 2, held={2: 0})
    ([0, 0, 1, 1], [1, 0, 0])
    """
    held = held or {}
    loads = [0.0] * ranks
    found = dict(held)
    for place, rank in held.items():
        loads[rank] += work[place]
    for place in sorted(range(len(work)), key=lambda place: -work[place]):
        if place not in held:
            rank = loads.index(min(loads))
            found[place] = rank
            loads[rank] += work[place]
    return [found[place] for place in range(len(work))]


def cut(keys: Sequence[object], shared: Sequence[int], own: Sequence[int], ranks: int) -> list[slice]:
    """`ranks` parts of some rows, in their order, the largest as small as can be. Neighbours of the same key
    share `shared[i]` tokens, which a part pays for once; `own[i]` are a row's own.

    >>> cut("aab", [4, 4, 4], [1, 1, 1], 2)
    [slice(0, 2, None), slice(2, 3, None)]
    >>> cut("ab", [0, 0], [1, 1], 3)
    [slice(0, 1, None), slice(1, 2, None), slice(2, 2, None)]
    """
    low = max((s + o for s, o in zip(shared, own, strict=True)), default=0)
    high = sum(shared) + sum(own)
    while low < high:
        most = (low + high) // 2
        low, high = (low, most) if len(_filled(keys, shared, own, most)) <= ranks else (most + 1, high)
    lengths = _filled(keys, shared, own, high)
    ends = list(accumulate(lengths + [0] * (ranks - len(lengths))))
    return [slice(end - (ends[n] - (ends[n - 1] if n else 0)), end) for n, end in enumerate(ends)]


def _filled(keys: Sequence[object], shared: Sequence[int], own: Sequence[int], most: int) -> list[int]:
    """How many rows each part takes that holds `most` tokens."""
    lengths: list[int] = []
    tokens = 0
    for n, key in enumerate(keys):
        more = own[n] + (0 if lengths and lengths[-1] and n and key == keys[n - 1] else shared[n])
        if not lengths or tokens + more > most:
            lengths.append(0)
            tokens, more = 0, own[n] + shared[n]
        lengths[-1] += 1
        tokens += more
    return lengths
