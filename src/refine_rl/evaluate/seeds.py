"""The same training under several seeds: how much of a difference is the luck of one training.

An interval over prompts says nothing of that. Here each seed gives one number, the mean difference over the
prompts, and the interval is Student's t with n - 1 degrees of freedom over these (Colas, Sigaud and Oudeyer
2018, "How Many Random Seeds?"): wide for two seeds, for three 2.5 times their standard deviation each way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from refine_rl.evaluate.interval import LEVEL
from refine_rl.evaluate.power import deviation
from refine_rl.evaluate.student import quantile
from refine_rl.types import Estimate, count_of, decimals


def over_seeds(differences: Sequence[float]) -> Estimate | None:
    """Their mean and its interval over seeds; None for fewer than two.

    >>> found = over_seeds([0.2, 0.3, 0.4])
    >>> round(found.mean, 3), [round(end, 3) for end in found.ci95]
    (0.3, [0.052, 0.548])
    >>> over_seeds([0.2]) is None
    True
    """
    n = len(differences)
    if n < 2:
        return None
    mean = sum(differences) / n
    half = quantile(0.5 + LEVEL / 2, n - 1) * deviation(differences) / math.sqrt(n)
    return Estimate(mean=mean, ci95=(mean - half, mean + half))


def told_of_seeds(done: int, seeds: int, difference: Estimate | None) -> str:
    """What the runs that are done of so many `seeds` show together, in a sentence.

    >>> told_of_seeds(3, 3, Estimate(mean=0.3, ci95=(0.05, 0.55)))
    'better over training seeds: +0.300, 95 % interval +0.050 to +0.550 (Student’s t over 3 seeds)'
    """
    of = count_of(seeds, "seed") if done == seeds else f"{done} of {seeds} seeds"
    if difference is None:
        return f"no interval over training seeds yet: two runs with a difference are the least ({of})"
    low, high = difference.ci95
    word = "better" if low > 0 else "worse" if high < 0 else "not better"
    return (
        f"{word} over training seeds: {decimals(difference.mean, '+')}, 95 % interval "
        f"{decimals(low, '+')} to {decimals(high, '+')} (Student’s t over {of})"
    )
