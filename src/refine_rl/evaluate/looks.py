"""Which of many differences are there, and not the luck of having looked at many.

Each row of a table by facet is a look. The chance of a difference as large in a row where there is none is
that of the sign-flip test on the paired differences (Fisher 1935; exact for few prompts, where a t test
promises too much); of all rows those hold that the step-up procedure of Benjamini and Hochberg (1995,
"Controlling the False Discovery Rate") keeps: of what is said to hold, 5 of 100 are expected to be luck.
Rows of different facets share prompts; where they go up and down together the procedure stays valid
(Benjamini and Yekutieli 2001).
"""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.types import Comparison, Part, count_of, decimals

RATE = 0.05
_EXACT = 12  # prompts up to which all signs are tried: 4,096
_FLIPS = 9_999
_NAMED = 4


def chance(differences: Sequence[float], seed: int) -> float:
    """How often a mean this far from 0 (either way) comes where each difference is as likely to have the
    other sign. Raises ValueError for none.

    >>> chance([1.0] * 5, seed=0), chance([1.0, -1.0], seed=0)
    (0.0625, 1.0)
    """
    import numpy as np

    x = np.asarray(differences, dtype=np.float64)
    if not x.size:
        raise ValueError("a chance needs at least one difference")
    scale = np.abs(x).sum()
    if scale == 0:
        return 1.0
    if x.size <= _EXACT:
        flipped = (np.arange(2**x.size)[:, None] >> np.arange(x.size)) & 1
        sums = np.abs((1 - 2 * flipped) @ x)
        return float((sums >= abs(x.sum()) - 1e-9 * scale).mean())
    generator, as_far = np.random.default_rng(seed), 0
    at_once = max(1, 2_000_000 // x.size)
    for start in range(0, _FLIPS, at_once):
        many = min(at_once, _FLIPS - start)
        signs = 1 - 2 * generator.integers(2, size=(many, x.size), dtype=np.int8)
        as_far += int((np.abs(signs @ x) >= abs(x.sum()) - 1e-9 * scale).sum())
    return (1 + as_far) / (1 + _FLIPS)  # the signs as they are count as one draw


def hold(chances: Sequence[float], rate: float = RATE) -> list[bool]:
    """Which hold among so many: with m of them in order, all up to the last k whose chance is at most k / m x
    `rate`.

    >>> hold([0.2, 0.01, 0.03, 0.02])
    [False, True, True, True]
    >>> hold([0.2, 0.03, 0.04, 0.9]), hold([])
    ([False, False, False, False], [])
    """
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    kept = max((k for k, i in enumerate(order, 1) if chances[i] <= k / len(order) * rate), default=0)
    holding = set(order[:kept])
    return [i in holding for i in range(len(chances))]


def told(c: Comparison) -> list[str]:
    """Which gains and losses by facet hold, a sentence each way; nothing where fewer than two were tested."""
    tested = [
        (f"{facet} {value}", part)
        for facet, values in c.facets.items()
        for value, part in values.items()
        if part.chance is not None
    ]
    if len(tested) < 2:
        return []
    gains = [(name, part) for name, part in tested if part.holds and part.difference.mean > 0]
    losses = [(name, part) for name, part in tested if part.holds and part.difference.mean < 0]
    return [*_one_way("gain", gains, len(tested)), *_one_way("lose", losses, len(tested))]


def losses(c: Comparison) -> str:
    """The losses that hold, where the tuned model is better as a whole; "" where there are none."""
    lost = [p for values in c.facets.values() for p in values.values() if p.holds and p.difference.mean < 0]
    return told(c)[-1] if lost and c.verdict == "better" else ""


def _one_way(verb: str, found: Sequence[tuple[str, Part]], looks: int) -> list[str]:
    if not found:
        return [f"Of {looks} parts by facet, none gains for itself."] if verb == "gain" else []
    largest = sorted(found, key=lambda one: -abs(one[1].difference.mean))
    names = ", ".join(f"{name} {decimals(part.difference.mean, '+')}" for name, part in largest[:_NAMED])
    more = f" and {count_of(len(found) - _NAMED, 'other')}" if len(found) > _NAMED else ""
    one = len(found) == 1
    said = f"{len(found)} {verb}{'s' if one else ''} for {'itself' if one else 'themselves'}"
    return [f"Of {looks} parts by facet, {said}, corrected for so many looks: {names}{more}."]
