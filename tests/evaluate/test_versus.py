"""What a comparison of two models says, and what has to be said with it."""

from __future__ import annotations

import pytest

from make import comparison, contrast, estimate
from refine_rl.evaluate.versus import Model, Versus, said_of
from refine_rl.types import Comparison

A, B = Model(name="old", run="runs/old"), Model(name="new", run="runs/new")


def versus(found: Comparison, **more: object) -> Versus:
    return Versus(a=A, b=B, comparison=found, seed=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "standing"),
    [
        ("better", "B is better"),
        ("worse", "A is better"),
        ("not better", "no difference shown"),
        ("too few to tell", "too few to tell"),
        ("not possible", "not possible"),
    ],
)
def test_the_verdict_is_read_off_the_interval(verdict: str, standing: str) -> None:
    assert versus(comparison(verdict, estimate(0.1, by=0.05))).standing == standing  # type: ignore[arg-type]


def test_nothing_is_said_of_a_plain_one() -> None:
    assert said_of(versus(comparison("better", contrast(0.2, 0.5)))) == []


def test_what_weakens_it() -> None:
    told = said_of(
        versus(
            comparison(
                "better",
                contrast(0.2, 0.5),
                prompts=12,
                prompts_missing=2,
                scores_missing={"base": 3, "tuned": 0},
                details={"cut": contrast(0.9, 0.1)},
            ),
            left_out=("p1", "p2"),
            differs=("reward.rules", "rewards.py"),
            notes=("a note",),
        )
    )
    assert told == [
        "a note",
        "new was trained by another reward (reward.rules, rewards.py differ); both are measured by that of "
        "old.",
        "Left out: 2 prompts that equal or resemble what one of the two was trained on.",
        "Only 12 prompts: so few show large differences alone. Compare on more with --prompts FILE.",
        "Scores are missing: 3 of old’s answers, 0 of new’s; 2 of 14 prompts are left out for it.",
        "Many answers were cut at the token limit (old 90%, new 10%): what is compared are beginnings.",
    ]
    few = said_of(versus(comparison("too few to tell", contrast(0.2, 0.5), prompts=4)))
    assert few[0].endswith(
        "than it should, and a verdict needs at least 5. Compare on more with --prompts FILE."
    )
    none = comparison("not possible", prompts=0, prompts_missing=3, base=None, tuned=None)
    assert said_of(versus(none))[0] == "No prompt (of 3) has scores of both models."
