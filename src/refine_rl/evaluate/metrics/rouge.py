"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): F1 of what an answer shares with its reference.

As the package rouge-score counts it, without stemming: words are runs of a-z and 0-9 in lower case; ROUGE-N
shares n-grams, ROUGE-L the longest common subsequence of the whole text. That tokenizer drops every other
letter, so that two equal texts in Greek would get 0: a reference whose letters and digits are mostly others
is compared by characters, and so is what answers it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

NAMES = ("rouge1", "rouge2", "rougeL")

_WORD = re.compile(r"[a-z0-9]+")


def rouge(answer: str, reference: str) -> tuple[float, float, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, each in [0, 1].

    >>> rouge("the cat sat", "the cat sat down")
    (0.8571428571428571, 0.8, 0.8571428571428571)
    >>> rouge("кот", "кот"), rouge("", "a")
    ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    """
    split = _characters if by_characters(reference) else _words
    said, wanted = split(answer), split(reference)
    if not said or not wanted:
        return 0.0, 0.0, 0.0
    common = _f1(_longest_common(said, wanted), len(said), len(wanted))
    return _ngrams(said, wanted, 1), _ngrams(said, wanted, 2), common


def by_characters(reference: str) -> bool:
    """Whether a reference is compared by characters, as most of its letters and digits are no a-z or 0-9.

    >>> by_characters("Schöne Grüße"), by_characters("文档 API"), by_characters("→ ✓")
    (False, False, True)
    """
    signs = [sign for sign in reference.lower() if sign.isalnum()]
    latin = sum(sign.isascii() for sign in signs)
    return 2 * latin < len(signs) or not signs


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _characters(text: str) -> list[str]:
    """Letters and digits; where there are none, every sign that is no white space."""
    signs = [sign for sign in text.lower() if not sign.isspace()]
    return [sign for sign in signs if sign.isalnum()] or signs


def _ngrams(said: Sequence[str], wanted: Sequence[str], n: int) -> float:
    one, other = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (said, wanted))
    return _f1((one & other).total(), one.total(), other.total())


def _f1(shared: int, said: int, wanted: int) -> float:
    """Harmonic mean of precision `shared / said` and recall `shared / wanted`."""
    return 2 * shared / (said + wanted) if shared else 0.0


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for sign in one:
        before = 0
        for place, wanted in enumerate(other, 1):
            above = row[place]
            row[place] = before + 1 if sign == wanted else max(above, row[place - 1])
            before = above
    return row[-1]
