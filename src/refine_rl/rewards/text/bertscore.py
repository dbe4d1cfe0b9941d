"""BERTScore: how much of two texts means the same, token by token (Zhang et al., arXiv 1904.09675).

Each token of the candidate is matched with the token of the reference that is most similar to it, by the
cosine of their states in an encoder, and the other way round:

    precision = sum_i w_i max_j cos(c_i, r_j) / sum_i w_i
    recall    = sum_j w_j max_i cos(c_i, r_j) / sum_j w_j
    F1        = 2 precision recall / (precision + recall)

As in the published scorer a weight w is 1, or with idf log((N + 1) / (n + 1)), where n of N references hold
the token; begin, end and separator have weight 0, and may be matched. With a baseline b a number x becomes
(x - b) / (1 - b): b is what texts get that have nothing to do with each other, by this encoder and layer.

The published scorer (bert-score 0.3) gives the same numbers to 2e-7 a pair at a time. In a batch it takes a
negative best cosine for 0 wherever a text is padded, so that a score there depends on its company; not here.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from refine_rl.rewards.text.encoder import Encoder, Tokens

_KEPT = 64 * 2**20  # bytes of references' states
_AT_ONCE = 256  # pairs whose states are held


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """How well a candidate matches a reference; all 0 where one of them is empty. `cut` where one of them is
    longer than its encoder reads."""

    precision: float
    recall: float
    f1: float
    cut: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Idf:
    """Weights of tokens by how few of the references hold them."""

    references: int
    holding: Mapping[int, int]

    def weight(self, token: int) -> float:
        return math.log((self.references + 1) / (self.holding.get(token, 0) + 1))


def idf_of(encoder: Encoder, references: Iterable[str]) -> Idf:
    """The weights that the references give.

    Raises ValueError for fewer than two different ones, of which every token would weigh nothing.
    """
    texts = list(references)
    if len(set(texts)) < 2:
        raise ValueError("idf needs at least two different references")
    holding = Counter(token for text in texts for token in set(encoder.ids(text)))
    return Idf(references=len(texts), holding=holding)


def match(
    candidate: np.ndarray,
    reference: np.ndarray,
    candidate_weights: np.ndarray,
    reference_weights: np.ndarray,
    *,
    baseline: float = 0.0,
) -> Match:
    """The match of states [C, H] and [R, H] of any length, with weights [C] and [R].

    A side without weight makes it 0; so does a precision or recall that is not above 0 for F1.

    >>> states = np.eye(3)  # three tokens that have nothing in common
    >>> match(states[:2], states[[0, 2, 2]], np.ones(2), np.ones(3))
    Match(precision=0.5, recall=0.3333333333333333, f1=0.4, cut=False)
    """
    if not candidate_weights.sum() > 0 or not reference_weights.sum() > 0:
        return Match(precision=0.0, recall=0.0, f1=0.0)
    cosines = _unit(candidate) @ _unit(reference).T  # [C, R]
    precision = float(np.average(cosines.max(axis=1), weights=candidate_weights))
    recall = float(np.average(cosines.max(axis=0), weights=reference_weights))
    f1 = 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0
    precision, recall, f1 = ((x - baseline) / (1 - baseline) for x in (precision, recall, f1))
    return Match(precision=precision, recall=recall, f1=f1)


def _unit(states: np.ndarray) -> np.ndarray:
    exact = states.astype(np.float64)
    unit: np.ndarray = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300)
    return unit


@dataclass(kw_only=True, slots=True)
class BertScore:
    """BERTScore with an encoder. Threads may share it.

    A reference is read alone, once, and kept while there is room; candidates are read together. So what an
    earlier call read changes no bit of a later one.
    """

    encoder: Encoder
    idf: Idf | None = None
    baseline: float = 0.0
    _references: OrderedDict[str, Tokens] = field(default_factory=OrderedDict, init=False, repr=False)
    _bytes: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def label(self) -> str:
        """What the numbers were made with: without it they say nothing."""
        extras = [*(["idf"] if self.idf else []), *([f"baseline {self.baseline:g}"] if self.baseline else [])]
        return ", ".join([f"{self.encoder.name}, layer {self.encoder.layer}", *extras])

    def group(self, candidates: Sequence[str], references: Sequence[str]) -> list[list[Match]]:
        """Every candidate held against every reference: a row for each candidate."""
        theirs = [self._reference(text) for text in references]
        mine = self.encoder.read(candidates)
        return [[self._match(one, other) for other in theirs] for one in mine]

    def pairs(self, candidates: Sequence[str], references: Sequence[str]) -> list[Match]:
        """Each candidate held against its own reference; all of them are read together."""
        if len(candidates) != len(references):
            raise ValueError(f"{len(candidates)} candidates and {len(references)} references")
        found: list[Match] = []
        for start in range(0, len(candidates), _AT_ONCE):
            mine, theirs = (side[start : start + _AT_ONCE] for side in (candidates, references))
            read = self.encoder.read([*mine, *theirs])
            sides = zip(read[: len(mine)], read[len(mine) :], strict=True)
            found += [self._match(one, other) for one, other in sides]
        return found

    def _match(self, one: Tokens, other: Tokens) -> Match:
        weights = [self._weights(side) for side in (one, other)]
        found = match(one.states, other.states, *weights, baseline=self.baseline)
        if not one.cut and not other.cut:
            return found
        return Match(precision=found.precision, recall=found.recall, f1=found.f1, cut=True)

    def _weights(self, tokens: Tokens) -> np.ndarray:
        if self.idf is None:
            return tokens.own.astype(np.float64)
        each = [self.idf.weight(int(token)) for token in tokens.ids]
        return np.where(tokens.own, np.array(each, dtype=np.float64), 0.0)

    def _reference(self, text: str) -> Tokens:
        with self._lock:
            if text in self._references:
                self._references.move_to_end(text)
                return self._references[text]
        (tokens,) = self.encoder.read([text])
        with self._lock:
            if text not in self._references:
                self._references[text] = tokens
                self._bytes += tokens.states.nbytes
            while self._bytes > _KEPT and len(self._references) > 1:
                _, oldest = self._references.popitem(last=False)
                self._bytes -= oldest.states.nbytes
        return tokens
