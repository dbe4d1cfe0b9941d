"""What has to be said with a verdict, wherever it is told."""

from __future__ import annotations

from typing import Any

import pytest

import make
from make import contrast
from refine_rl.evaluate.verdict import cautions, mostly_cut, said_with, unexpected, updated, verdict
from refine_rl.types import Comparison, StepMetrics


def comparison(prompts: int = 64, **more: Any) -> Comparison:
    reward = contrast(0.25, 0.75)
    return make.comparison(verdict(reward.difference, prompts), reward, prompts=prompts, **more)


def step(loss: float | None, norm: float | None) -> StepMetrics:
    return make.metrics(loss=loss, grad_norm=norm)


def test_a_run_is_updated_by_a_single_step_that_moves_a_weight() -> None:
    assert not updated([step(None, None), step(None, None)])
    assert updated([step(None, None), step(0.0, 0.5), step(None, None)])
    assert not updated([step(0.0, 0.0)])  # a KL term at the start: no gradient
    assert updated([])  # not known


@pytest.mark.parametrize(
    ("prompts", "word", "names"),
    [
        (64, "better", set()),
        (20, "better", set()),
        (19, "better", {"few_prompts"}),
        (5, "better", {"few_prompts"}),
        (4, "too few to tell", {"few_prompts"}),
    ],
)
def test_few_prompts(prompts: int, word: str, names: set[str]) -> None:
    c = comparison(prompts)
    assert (c.verdict, set(cautions(c))) == (word, names)


def test_a_text_never_has_an_interval_that_contradicts_it() -> None:
    few = comparison(3)
    assert str(few) == "too few to tell: base 0.250 -> tuned 0.750, difference 0.500 on 3 held-out prompts"
    assert "a verdict needs at least 5" in cautions(few)["few_prompts"]
    assert "[0.450, 0.550] on 64 held-out prompts" in str(comparison())


def test_missing_scores_are_counted_on_each_side() -> None:
    c = comparison(8, prompts_missing=4, scores_missing={"base": 3, "tuned": 17})
    said = cautions(c)["scores_missing"]
    assert said == (
        "Scores are missing of 3 of the base model’s 60 answers and of 17 of the tuned model’s; a prompt "
        "counts by those that it has, if each side has one. 4 of 12 prompts are left out."
    )
    assert "left out" not in cautions(comparison(8, scores_missing={"base": 0, "tuned": 1}))["scores_missing"]
    assert cautions(comparison(64, scores_missing={"base": 0, "tuned": 0})) == {}


@pytest.mark.parametrize(
    ("base", "tuned", "said"),
    [(0.5, 0.5, None), (0.6, 0.0, "base_cut"), (0.0, 0.51, "mostly_cut"), (0.9, 0.9, "mostly_cut")],
)
def test_the_share_of_cut_answers_is_said_and_a_large_one_qualifies(
    base: float, tuned: float, said: str | None
) -> None:
    """An answer of the tuned model that was cut was not seen to its end; a base model that never ends says
    nothing against the tuned one."""
    c = comparison(details={"cut": contrast(base, tuned)})
    assert mostly_cut(c) is (said == "mostly_cut")
    assert {"mostly_cut", "base_cut"} & cautions(c).keys() == ({said} if said else set())
    assert ("mostly_cut" in unexpected(c)) is (said == "mostly_cut")
    line = f"Answers cut at the token limit: base {100 * base:.0f} %, tuned {100 * tuned:.0f} %."
    assert said_with(c)[0] == line


def test_what_stands_in_the_place_of_a_verdict() -> None:
    learned = cautions(comparison(verdict="no signal"))["no_signal"]
    assert learned.startswith("No step of the training moved a weight")
    nothing = {"base": None, "tuned": None, "difference": None}
    impossible = cautions(comparison(0, verdict="not possible", prompts_missing=2, **nothing))
    assert "No prompt (of 2) has scores of both models." in impossible["not_possible"]
    assert "few_prompts" not in impossible
