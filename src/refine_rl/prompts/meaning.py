"""Texts that mean nearly the same: cosine similarity of sentence embeddings (all-MiniLM-L6-v2).

The encoder is that of the extra refine-rl[encoder]; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from refine_rl.errors import SettingsError
from refine_rl.rewards.text import encoder

_LONGEST = 256  # tokens that the encoder was trained to read as a sentence
_AT_ONCE = 256  # texts whose tokens' states are held


def require_encoder() -> None:
    """Raises SettingsError where the extra is not installed."""
    try:
        encoder.require_encoder()
    except SettingsError as error:
        raise SettingsError(f'`prompts.similarity = "meaning"`: {error}, or use "words"') from None


class Sentences:
    """Sentences -> unit vectors [N, 384]; a text is encoded once."""

    def __init__(self) -> None:
        require_encoder()
        self._encoder = encoder.the_encoder()
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, 384]: the mean over a text's tokens, scaled to length 1."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            for text, tokens in zip(some, self._encoder.read(some, limit=_LONGEST), strict=True):
                mean = tokens.states.mean(axis=0)
                self._known[text] = mean / np.linalg.norm(mean)
        return np.stack([self._known[text] for text in texts])


@cache
def the_sentences() -> Sentences:
    """Those of the process."""
    return Sentences()


class NearMeanings:
    """Finds, among the texts that were added, those whose meaning is too near to another one's."""

    def __init__(self, texts: Sequence[str], threshold: float, sentences: Sentences | None = None) -> None:
        self._threshold = threshold
        self._vectors = (sentences or the_sentences()).encode(texts) if texts else np.zeros((0, 1))
        self._added: list[int] = []

    def add(self, index: int) -> None:
        """Add text number `index`."""
        self._added.append(index)

    def find(self, index: int) -> tuple[int, float] | None:
        """The nearest added text at or above the threshold, the first added of equals."""
        if not self._added:
            return None
        cosines = self._vectors[self._added] @ self._vectors[index]
        best = int(np.argmax(cosines))
        value = float(cosines[best])
        return (self._added[best], value) if value >= self._threshold else None
