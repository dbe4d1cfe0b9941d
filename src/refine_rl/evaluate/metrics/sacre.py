"""BLEU and chrF of a corpus: what sacrebleu counts of each answer, and the two formulas on sums of that.

The counts are sacrebleu's own, so that its tokenizer and its signature hold; the formulas stand here as well,
on many sums at once, because a thousand resamples would take it minutes.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from refine_rl.errors import SettingsError
from refine_rl.evaluate.metrics.resample import Rows, Value

_ORDERS = 4  # of BLEU's n-grams
_CHARACTER_ORDERS, _BETA = 6, 2  # of chrF
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Rows of counts, a prompt each; the formula on their sums; and sacrebleu's signature."""

    rows: Rows
    value: Value
    how: str


def require_sacrebleu(name: str) -> None:
    """Raises SettingsError where it is not installed."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise SettingsError(
            f'evaluate.metrics: "{name}" needs sacrebleu: pip install "refine-rl[metrics]", or leave it out.'
        )


def count(name: Literal["bleu", "chrf"], answers: Sequence[str], references: Sequence[str]) -> Corpus:
    """The counts of the answers, each beside its reference. BLEU's tokens are characters where the references
    are mostly of a script without spaces, else what sacrebleu's default makes of words; its signature says
    which."""
    from sacrebleu.metrics import BLEU, CHRF

    metric: Any
    if name == "bleu":
        unspaced = 2 * sum(map(is_unspaced, references)) > len(references)
        metric, value = BLEU(tokenize="char" if unspaced else "13a", force=True), bleu
    else:
        metric, value = CHRF(char_order=_CHARACTER_ORDERS, beta=_BETA), chrf
    rows = metric._extract_corpus_statistics(list(answers), [list(references)])
    how = f"sacrebleu, {metric.get_signature()}"
    return Corpus(rows=np.array(rows, dtype=np.float64), value=value, how=how)


def bleu(sums: Rows) -> Rows:
    """BLEU (Papineni et al. 2002), 0 to 100, with exponential smoothing (Chen and Cherry 2014, method 3), of
    sums [..., 10]: the answers' tokens, the references', matches of 1- to 4-grams, and 1- to 4-grams."""
    said, wanted = sums[..., 0], sums[..., 1]
    matched, had = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
    some = np.maximum(had, 1)
    smoothed = 0.5 ** np.cumsum((matched == 0) & (had > 0), axis=-1)
    precision = np.where(matched > 0, matched, smoothed) / some
    brevity = np.minimum(0.0, 1 - wanted / np.maximum(said, 1))
    score = 100 * np.exp(brevity + np.log(precision).mean(axis=-1))
    counts: Rows = np.where((had > 0).all(axis=-1) & (matched > 0).any(axis=-1), score, 0.0)
    return counts


def chrf(sums: Rows) -> Rows:
    """chrF2 (Popović 2015), 0 to 100, of sums [..., 18]: for n-grams of 1 to 6 characters those of the
    answers, those of the references, and the matches."""
    by_order = sums.reshape(*sums.shape[:-1], _CHARACTER_ORDERS, 3)
    said, wanted, matched = (by_order[..., place] for place in range(3))
    counted = (said > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = np.where(counted, matched / np.maximum(said, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(counted, matched / np.maximum(wanted, 1), 0.0).sum(axis=-1) / orders
    factor = _BETA**2
    under = factor * precision + recall
    score: Rows = 100 * (1 + factor) * precision * recall / np.where(under > 0, under, 1.0)
    return score


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text are of a script that puts no spaces between words.

    >>> is_unspaced("返回文件的内容"), is_unspaced("возвращает файл"), is_unspaced("")
    (True, False, False)
    """
    letters = [sign for sign in text if sign.isalpha()]
    return 2 * sum(unicodedata.name(sign, "").startswith(_UNSPACED) for sign in letters) > len(letters)
