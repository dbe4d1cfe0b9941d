"""Which difference so many prompts could have shown, and how many would show a given one.

Of n prompts whose paired differences spread by s (their standard deviation), the interval of the mean
excludes 0 in 80 of 100 cases where the true difference is at least

    (t(0.975, n - 1) + t(0.8, n - 1)) s / sqrt(n),

the minimum detectable effect (Bloom 1995, "Minimum detectable effects"; Miller 2024, "Adding error bars to
evals", does so for models), with quantiles of Student's t as the interval has them (evaluate/interval.py). It
is as good as s, which few prompts know badly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from refine_rl.evaluate.interval import LEVEL
from refine_rl.evaluate.student import quantile
from refine_rl.types import Comparison, count_of, decimals

POWER = 0.8
MOST = 100_000
"""Prompts, beyond which nobody asks."""


def deviation(differences: Sequence[float]) -> float:
    """Their standard deviation (n - 1); 0 where there are fewer than two."""
    n = len(differences)
    if n < 2:
        return 0.0
    mean = sum(differences) / n
    away = [x - mean for x in differences]
    return math.hypot(*away) / math.sqrt(n - 1)  # hypot: rewards may be so large that no square is a number


def detectable(spread: float, prompts: int) -> float:
    """The true difference that `prompts` (2 or more) show in 80 of 100 cases.

    >>> round(detectable(0.4, 64), 4), round(detectable(0.4, 16), 4)
    (0.1423, 0.2998)
    """
    freedom = prompts - 1
    return (quantile(0.5 + LEVEL / 2, freedom) + quantile(POWER, freedom)) * spread / math.sqrt(prompts)


def prompts_needed(spread: float, difference: float) -> int | None:
    """The fewest prompts (at least 2) that show a true `difference` in 80 of 100 cases; None where 100,000
    are not enough, or there is none.

    >>> prompts_needed(0.4, 0.1423), prompts_needed(0.4, -0.05), prompts_needed(0.4, 0.0)
    (64, 505, None)
    """
    if difference == 0 or detectable(spread, MOST) > abs(difference):
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(spread, middle) <= abs(difference) else (middle, high)
    return high


def told(c: Comparison) -> str:
    """Which difference the prompts of a comparison could have shown, and where they did not show the one that
    was observed, how many would; "" where that is not known."""
    if c.detectable is None or c.difference is None or c.verdict in ("no signal", "not possible"):
        return ""
    said = [
        f"{count_of(c.prompts, 'prompt')} like these show a true difference of {decimals(c.detectable)} or "
        "more in 80 of 100 cases."
    ]
    unsure = c.verdict in ("not better", "too few to tell")
    observed, matters = (c.prompts_needed.get(name) for name in ("observed", "matters"))
    if unsure and observed is None:
        said.append("The one observed is too small for any number of prompts that one would take.")
    elif unsure and observed is not None and observed > c.prompts:
        said.append(
            f"The one observed ({decimals(c.difference.mean, '+')}) would take about {observed:,} of them: "
            f"prompts.held_out = {observed}."
        )
    if c.matters is not None and "matters" in c.prompts_needed:
        much = "more than 100,000" if matters is None else f"about {matters:,}"
        said.append(f"One of {decimals(c.matters)} takes {much}.")
    return " ".join(said)
