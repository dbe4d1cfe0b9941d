"""The reward of `collapse.toml`: an example that many a first run begins with."""

from __future__ import annotations


def near_twenty_characters(prompt: str, completion: str) -> float:
    """Minus the number of characters that the answer is away from twenty.

    >>> near_twenty_characters("", "a" * 25), near_twenty_characters("", "")
    (-5.0, -20.0)
    """
    return -float(abs(20 - len(completion)))
