"""The page on which a person votes, and what votes say in words."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from refine_rl.evaluate.agreement import Agreement
from refine_rl.evaluate.votes import Count, Tally
from refine_rl.report.fill import file_of, fill
from refine_rl.types import count_of, decimals


def review_page(name: str) -> str:
    """The page for the run of that name. What it shows it asks its own server for, and puts in as text."""
    script = f'(() => {{\n"use strict";\n{file_of("review.js")}}})();'
    return fill(
        "review.html.j2",
        {
            "name": name,
            "style": Markup(file_of("page.css") + file_of("review.css")),
            "script": Markup(script),
            "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        },
    )


def told(found: Tally, *, own_alone: bool = False) -> list[str]:
    """What votes say, a line each: which model was preferred, whether that is more than chance, and how far
    the reward agrees. `own_alone`: they are one reviewer's."""
    names = list(found.reviewers)
    who = "You" if own_alone else names[0] if len(names) == 1 else "Most reviewers"
    lines = [preferred(found.all, who)]
    if found.with_reward.pairs:
        lines.append(f"With the order of the rewards: {agreeing(found.with_reward)}.")
    if not own_alone:
        lines += [f"{one} with {other}: {agreeing(a)}." for (one, other), a in found.among.items() if a.pairs]
    return lines


def preferred(count: Count, who: str) -> str:
    """
    >>> said, means = preferred(Count(tuned=15, base=3, tie=2), "You").split(". ")
    >>> said.partition(" (")[0]
    'You preferred the tuned model in 15 of 18 pairs with a winner'
    >>> print((said.partition(" (")[2] + "/" + means).replace("\u00a0", " "))
    83 %, 95 % interval 61 % to 94 %); 2 ties/That is more than chance gives.
    """
    ties = f"; {count_of(count.tie, 'tie')}" if count.tie else ""
    if count.share is None:
        return f"{who} preferred neither model{ties}."
    low, high = count.ci95
    decided = count.tuned + count.base
    says = (
        "That is more than chance gives."
        if low > 0.5
        else "The base model is preferred by more than chance gives."
        if high < 0.5
        else "That can be chance: these votes do not tell which is better."
    )
    return (
        f"{who} preferred the tuned model in {count.tuned} of {count_of(decided, 'pair')} with a winner "
        f"({_percent(count.share)}, 95\u00a0% interval {_percent(low)} to {_percent(high)}){ties}. {says}"
    )


def agreeing(found: Agreement) -> str:
    """
    >>> print(agreeing(Agreement(pairs=20, alike=0.7, kappa=0.4512, ci95=(0.1, 0.7))).replace("\u00a0", " "))
    alike on 14 of 20 pairs, Cohen’s kappa 0.451 (95 % interval 0.100 to 0.700)
    """
    if found.kappa is None:
        return "no pair in common"
    low, high = found.ci95
    return (
        f"alike on {round(found.alike * found.pairs)} of {count_of(found.pairs, 'pair')}, Cohen’s kappa "
        f"{_number(found.kappa)} (95\u00a0% interval {_number(low)} to {_number(high)})"
    )


def _number(value: float) -> str:
    return decimals(value).replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"
