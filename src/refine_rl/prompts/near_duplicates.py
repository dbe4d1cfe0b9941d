"""Texts that are nearly the same: word-trigram Jaccard similarity, found without comparing all pairs.

Two sets with |a & b| / |a | b| >= t share at least k = ceil(t * |a|) members, so one of the |a| - k + 1
rarest members of `a` is among the shared ones. Only texts that have one of these in common are compared,
exactly (prefix filtering; Chaudhuri, Ganti, Kaushik 2006).
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Literal, Protocol

_WORD = re.compile(r"\w+")
_SYMBOL = re.compile(r"\S")


def features(text: str) -> frozenset[tuple[str, ...]]:
    """The set of word trigrams of a text, whatever its case and punctuation.

    A text of fewer than three words has its single words instead (a text without words: its symbols).

    >>> sorted(features("Say hi to Ann."))
    [('hi', 'to', 'ann'), ('say', 'hi', 'to')]
    """
    words = _WORD.findall(text.casefold()) or _SYMBOL.findall(text)
    if len(words) < 3:
        return frozenset((word,) for word in words)
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def similarity(a: AbstractSet[object], b: AbstractSet[object]) -> float:
    """|a & b| / |a | b|; two empty sets are the same."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 1.0


class Finder(Protocol):
    """Whoever finds, among texts that were added by their number, those that resemble another one."""

    def add(self, index: int) -> None:
        """Add text number `index`."""

    def find(self, index: int) -> tuple[int, float] | None:
        """The most similar added text at or above the threshold, with the similarity."""


def near_duplicates(
    texts: Sequence[str], threshold: float, similarity: Literal["words", "meaning"] = "words"
) -> Finder:
    """The finder that the settings ask for: by words, or by words and by meaning; with a threshold of 1 it
    finds nothing."""
    if threshold == 1:
        return _Either()
    by_words = NearDuplicates(texts, threshold)
    if similarity == "words":
        return by_words
    from refine_rl.prompts.meaning import NearMeanings

    return _Either(by_words, NearMeanings(texts, threshold))


class _Either:
    """Several finders as one: the first that finds something says what."""

    def __init__(self, *finders: Finder) -> None:
        self._finders = finders

    def add(self, index: int) -> None:
        for finder in self._finders:
            finder.add(index)

    def find(self, index: int) -> tuple[int, float] | None:
        return next((found for finder in self._finders if (found := finder.find(index))), None)


class NearDuplicates:
    """Finds, among the texts that were added, those that are too similar to another one."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self._threshold = threshold
        found = [features(text) for text in texts]
        count = Counter(chain.from_iterable(found))
        rarity = {feature: rank for rank, feature in enumerate(sorted(count, key=count.__getitem__))}
        self._texts = [frozenset(map(rarity.__getitem__, f)) for f in found]  # numbers: the rarest is 0
        self._added: dict[int, int] = {}  # number of the text -> its place among the added ones
        self._with_feature: dict[int, list[int]] = {}

    def add(self, index: int) -> None:
        """Add text number `index`."""
        self._added[index] = len(self._added)
        for feature in self._texts[index]:
            self._with_feature.setdefault(feature, []).append(index)

    def find(self, index: int) -> tuple[int, float] | None:
        """The most similar added text at or above the threshold, the first added of equals."""
        own = self._texts[index]
        similar = ((other, similarity(own, self._texts[other])) for other in self._possible(own))
        near = [found for found in similar if found[1] >= self._threshold]
        return max(near, key=lambda found: found[1], default=None)

    def _possible(self, wanted: frozenset[int]) -> list[int]:
        """Added texts that could reach the threshold, in the order in which they were added."""
        if not wanted:
            return [other for other in self._added if not self._texts[other]]
        needed = math.ceil(self._threshold * len(wanted) - 1e-9)  # 0.56 * 25 is a little over 14
        rarest = heapq.nsmallest(len(wanted) - needed + 1, wanted)
        found = {other for feature in rarest for other in self._with_feature.get(feature, ())}
        return sorted(found, key=self._added.__getitem__)
