"""Columns of answers and their references -> metrics with intervals, and the same of controls.

A column is what one model (base, tuned, sft ...) answered, an answer a prompt; a control is answers that no
model gave, or answers beside references that are not theirs. A metric is measured on all of them alike, and
resampled by the same draws of prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from refine_rl.evaluate.metrics import rouge, sacre
from refine_rl.evaluate.metrics.resample import Resampled, Rows, Value, as_rows, mean, resample
from refine_rl.types import Beside, Metric

Pairs = tuple[Sequence[str], Sequence[str]]
"""Answers, and the reference of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """One number that a set of answers gets: a row a prompt, the formula on their sums, and how."""

    rows: Rows
    value: Value = mean
    how: str = ""
    notes: Mapping[str, float] = field(default_factory=dict)


class TextMetric(Protocol):
    """What compares answers with references: a scale, or several, by name."""

    def __call__(self, answers: Sequence[str], references: Sequence[str], /) -> Mapping[str, Scale]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The fields `metrics` and `controls` of a comparison."""

    metrics: Mapping[str, Metric]
    controls: Mapping[str, Mapping[str, Beside]]


def bleu(answers: Sequence[str], references: Sequence[str], /) -> Mapping[str, Scale]:
    corpus = sacre.count("bleu", answers, references)
    return {"bleu": Scale(rows=corpus.rows, value=corpus.value, how=corpus.how)}


def chrf(answers: Sequence[str], references: Sequence[str], /) -> Mapping[str, Scale]:
    corpus = sacre.count("chrf", answers, references)
    return {"chrf": Scale(rows=corpus.rows, value=corpus.value, how=corpus.how)}


def rouge_f1(answers: Sequence[str], references: Sequence[str], /) -> Mapping[str, Scale]:
    """The mean over prompts."""
    scores = [rouge.rouge(answer, wanted) for answer, wanted in zip(answers, references, strict=True)]
    spelled = sum(map(rouge.by_characters, references))
    how = "words of a-z and 0-9, no stemming"
    if spelled:
        how += f"; {spelled} of {len(references)} references by characters"
    return {
        name: Scale(rows=as_rows([score[place] for score in scores]), how=how)
        for place, name in enumerate(rouge.NAMES)
    }


def measure(
    text_metrics: Sequence[TextMetric],
    columns: Mapping[str, Pairs],
    controls: Mapping[str, Pairs],
    given: Mapping[str, Mapping[str, Scale]],
    given_controls: Mapping[str, Mapping[str, Scale]],
    bootstrap: Bootstrap,
) -> Found:
    """The metrics of `columns` ("base" and "tuned" among them), and of `controls`, each of which holds an
    answer and a reference for each prompt.

    `given` are metrics that were measured elsewhere, by the metric's name and the column's. `given_controls`
    are metrics of which only controls have something to say, by the metric's name, then "tuned" or the
    control's.
    """
    metrics: dict[str, Metric] = {}
    found: dict[str, dict[str, Beside]] = {name: {} for name in controls}
    for name, scales in _measured(text_metrics, {**columns, **controls}):
        own = {column: scales[column] for column in columns}
        metrics |= _metric(name, own, bootstrap)
        _set_beside(name, scales, controls, found, bootstrap)
    for name, by_column in given.items():
        metrics |= _metric(name, by_column, bootstrap)
    for name, by_control in given_controls.items():
        _set_beside(name, by_control, controls, found, bootstrap)
    return Found(metrics=metrics, controls={name: each for name, each in found.items() if each})


def _measured(
    text_metrics: Sequence[TextMetric], sets: Mapping[str, Pairs]
) -> Iterator[tuple[str, dict[str, Scale]]]:
    """Each metric by name, with its scale of each set of answers."""
    for text_metric in text_metrics:
        scales = {name: text_metric(*pairs) for name, pairs in sets.items()}
        for metric in next(iter(scales.values())):
            yield metric, {name: scale[metric] for name, scale in scales.items()}


def _metric(name: str, scales: Mapping[str, Scale], bootstrap: Bootstrap) -> dict[str, Metric]:
    """The metric under its name; nothing where no prompt has it in every column."""
    tuned = scales["tuned"]
    found = _resample(scales, bootstrap)
    return {} if found is None else {name: found.metric(tuned.how, tuned.notes)}


def _set_beside(
    name: str,
    scales: Mapping[str, Scale],
    controls: Mapping[str, Pairs],
    found: dict[str, dict[str, Beside]],
    bootstrap: Bootstrap,
) -> None:
    """Puts each control's value of a metric beside the tuned model's."""
    for control in controls:
        if control in scales:
            both = _resample({"tuned": scales["tuned"], control: scales[control]}, bootstrap)
            if both is not None:
                found[control][name] = both.beside(control)


def _resample(scales: Mapping[str, Scale], bootstrap: Bootstrap) -> Resampled | None:
    rows = {name: scale.rows for name, scale in scales.items()}
    value = scales["tuned"].value
    return resample(rows, value, resamples=bootstrap.resamples, seed=bootstrap.seed)


def deranged(count: int, seed: int) -> list[int]:
    """For each of `count` prompts, at least two, the place of another one; nobody's own, and each once.

    >>> places = deranged(5, seed=1)
    >>> sorted(places), any(place == own for own, place in enumerate(places))
    ([0, 1, 2, 3, 4], False)
    """
    order = np.random.default_rng(seed).permutation(count)
    places = np.empty(count, dtype=int)
    places[order] = np.roll(order, 1)
    return [int(place) for place in places]
