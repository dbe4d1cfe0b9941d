"""Scores that could not be had: how many may be missing, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.errors import MEND, GuardStop
from refine_rl.types import Score


def require_scores(scores: Sequence[Score], max_missing: float, where: str) -> None:
    """Raises GuardStop where more than `max_missing` of the scores could not be had."""
    missing = [s for s in scores if s.status == "missing"]
    if len(missing) > max_missing * len(scores):
        raise GuardStop(
            "missing",
            f"{where}: {len(missing)} of {len(scores)} scores are missing "
            f"(allowed: {max_missing:.0%}, reward.max_missing). The first reason:\n"
            f"{missing[0].explanation}\n",
            f"A missing score is never counted as 0. {MEND}",
        )


def missing_text(scores: Sequence[Score]) -> str:
    """How many of the scores are missing, and why the first one is; "" where none is."""
    missing = [s for s in scores if s.status == "missing"]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{len(missing)} of {len(scores)} scores {verb} missing; a missing score counts for nothing. "
        f"The first reason:\n{missing[0].explanation}"
    )
