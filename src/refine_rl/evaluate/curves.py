"""What a model reaches in k tries: whether training taught something, or made the likely likelier.

`pass_at`: the chance that at least one of k answers is a full success (Chen et al. 2021, "Evaluating Large
Language Models Trained on Code", equation 1). `best_of`: the reward of the best of k answers. Both are
unbiased means over all choices of k of a prompt's n answers, so k goes up to n.

A tuned model that is better in one try and worse than base in k only found more often what base found too,
and lost some of the rest (Yue et al. 2025, "Does Reinforcement Learning Really Incentivize Reasoning
Capacity in LLMs Beyond the Base Model?"). The k here are small: where curves meet at 4, they may cross at
64.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from refine_rl.types import MIN_PROMPTS, Comparison, decimals

SHARPENED = "Sharpened, not learnt"


def pass_at(k: int, answers: int, right: int) -> float:
    """The chance that k of `answers`, chosen without putting back, have at least one of the `right` ones.

    >>> pass_at(1, 4, 1), pass_at(2, 4, 1), pass_at(4, 4, 1), pass_at(2, 4, 3)
    (0.25, 0.5, 1.0, 1.0)
    """
    return 1 - comb(answers - right, k) / comb(answers, k)


def best_of(k: int, values: Sequence[float]) -> float:
    """The mean of the largest of k of the values, over all choices of k: the i-th smallest is the largest of
    comb(i - 1, k - 1) of them.

    >>> best_of(1, [0.0, 1.0, 0.5]), best_of(2, [0.0, 1.0, 0.5]), best_of(3, [0.0, 1.0, 0.5])
    (0.5, 0.8333333333333334, 1.0)
    """
    ordered = sorted(values)
    return sum(comb(i, k - 1) * value for i, value in enumerate(ordered)) / comb(len(ordered), k)


def sharpening(c: Comparison) -> str:
    """In a sentence, what the curves say of a tuned model that is better in one try; "" where it is not, or
    there are no curves."""
    curve = c.curves.get("best", ())
    if len(curve) < 2 or c.prompts < MIN_PROMPTS or c.verdict != "better":
        return ""
    last, k = curve[-1], len(curve)
    base, tuned = decimals(last.base.mean), decimals(last.tuned.mean)
    low, high = last.difference.ci95
    if high < 0:
        return (
            f"{SHARPENED}: in one try the tuned model is better, but the best of {k} answers of base earns "
            f"{base} and that of tuned {tuned}. What base finds now and then, the tuned model finds more "
            "often, and the rest less."
        )
    if low > 0:
        return (
            f"Beyond sharpening, as far as {k} tries show: the best of {k} answers of base earns {base}, "
            f"that of tuned {tuned}."
        )
    return (
        f"Learnt or only sharpened: not told apart. The best of {k} answers of base earns {base}, that of "
        f"tuned {tuned}: as much, as far as these prompts show."
    )
