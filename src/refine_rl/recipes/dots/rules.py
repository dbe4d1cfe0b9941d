"""Rules of the recipe `dots`. The parameters `answer` and `kind` come from the prompt's data."""

from __future__ import annotations

import re

from refine_rl.types import Score


def correct(prompt: str, completion: str, answer: str, kind: str) -> Score:
    """Is the answer right, whatever stands around it?

    Counting: 1 when exactly one number occurs and it is the right one, else 0. Patterns: the share
    of items that stand in the right place, from the first one on; items too many count as wrong.
    """
    if kind == "count":
        numbers = re.findall(r"\d+", completion)
        return Score(
            value=float(numbers == [answer]),
            explanation=f"numbers found: {', '.join(numbers) or 'none'}; right is {answer}",
        )
    wanted, items = answer.split(), re.findall(r"\b[a-z]\b", completion.lower())
    right = 0
    while right < min(len(wanted), len(items)) and wanted[right] == items[right]:
        right += 1
    return Score(
        value=right / max(len(wanted), len(items)),
        explanation=f"{right} of {len(wanted)} items right, {len(items)} written",
    )


def bare(prompt: str, completion: str, answer: str, kind: str) -> Score:
    """1 when the completion is nothing but a number, or single letters; else 0."""
    form = r"\s*\d+\.?\s*" if kind == "count" else r"\s*[a-z](\s+[a-z])*\.?\s*"
    ok = re.fullmatch(form, completion) is not None
    return Score(value=float(ok), explanation="only the answer" if ok else "more or less than the answer")
