"""An answer's steps, and the share of them that is right."""

from __future__ import annotations

from refine_rl.rewards.text.patterns import pattern
from refine_rl.types import Score


def steps_of(text: str, split: str) -> list[str]:
    """What stands between the matches of `split`, stripped; empty steps do not count. Raises TooSlow.

    >>> steps_of("2 + 3 = 5\\n\\n5 + 4 = 8\\n", r"\\n+")
    ['2 + 3 = 5', '5 + 4 = 8']
    """
    return [piece.strip() for piece in pattern(split).split(text) if piece and piece.strip()]


def right_steps(right: int, steps: int, *, why: str = "") -> Score:
    """The share of an answer of `steps` steps whose first `right` are right; 0 where it has none.

    >>> right_steps(2, 4, why="false")
    Score(value=0.5, status='scored', breakdown={}, explanation='2 of 4 steps, then: false', agreement=None)
    """
    explanation = f"{right} of {steps} steps" + (f", then: {why}" if why else "")
    return Score(value=right / steps if steps else 0.0, explanation=explanation)
