"""Metrics of what models did that need no comparison of texts: lengths, win rates, perplexity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from refine_rl.evaluate.metrics.measure import Scale
from refine_rl.evaluate.metrics.resample import Rows, as_rows
from refine_rl.types import Outcome

Scales = Mapping[str, Scale]
"""By column."""


def lengths(columns: Mapping[str, Sequence[Outcome]]) -> dict[str, Scales]:
    """ "chars" and "tokens": the mean length of the greedy answers, the stop token included."""
    return {
        "chars": {
            name: Scale(rows=as_rows([float(len(o.greedy[0].completion)) for o in outcomes]))
            for name, outcomes in columns.items()
        },
        "tokens": {
            name: Scale(rows=as_rows([float(o.greedy[0].completion_tokens) for o in outcomes]))
            for name, outcomes in columns.items()
        },
    }


def greedy_rewards(outcomes: Sequence[Outcome]) -> Scale:
    """The mean reward of the greedy answers; a missing one is none."""
    return Scale(rows=as_rows([o.greedy[1].value for o in outcomes]))


def wins(points: Sequence[float | None], how: str, notes: Mapping[str, float]) -> Scale:
    """The mean of points: 1 a win, 1/2 a tie; None where no verdict could be had."""
    return Scale(rows=as_rows(list(points)), how=how, notes=notes)


def perplexities(losses: Mapping[str, Sequence[tuple[float, int] | None]], how: str) -> Scales:
    """exp of the mean natural-log loss a token, over all tokens of all references. `losses`: by column, for
    each prompt the sum over its reference's tokens, in nats, and their number; None where it has none.

    >>> found = perplexities({"base": [(2.0, 1), (1.0, 2)]}, "")["base"]
    >>> round(float(found.value(found.rows.sum(axis=0))), 3) == round(float(np.exp(1.0)), 3)
    True
    """
    return {
        name: Scale(
            rows=np.array([(np.nan, np.nan) if loss is None else loss for loss in each], dtype=np.float64),
            value=_perplexity,
            how=how,
        )
        for name, each in losses.items()
    }


def _perplexity(sums: Rows) -> Rows:
    found: Rows = np.exp(sums[..., 0] / sums[..., 1])
    return found
