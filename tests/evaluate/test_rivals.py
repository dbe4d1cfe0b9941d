"""Which of a tuned model and its rivals to ship, from rewards alone; and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from make import attempts, comparison, contrast, estimate, prompt, score
from refine_rl.evaluate.rivals import Contest, Made, rewards, shipping, to_make, to_ship, with_rivals
from refine_rl.evaluate.stats import paired
from refine_rl.evaluate.verdict import cautions, said_with
from refine_rl.types import Content, Estimate, Other, Outcome, Ship, Took

PROMPTS = 8


def outcome(number: int, value: float | None) -> Outcome:
    asked = prompt(number)
    (said,) = attempts(asked, "Hi.")
    return Outcome(prompt=asked, sampled=((said, score(value)),), greedy=(said, score(value)))


def side(*values: float | None) -> list[Outcome]:
    return [outcome(number, value) for number, value in enumerate(values)]


def exact(a: list[float], b: list[float]) -> Estimate:
    return paired(a, b, resamples=100, seed=0).difference


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        # Nothing is better than base.
        ({"tuned": [0.2] * 8, "prompt": [0.1] * 8}, Ship(name="base", unsure=("tuned", "prompt"))),
        # What is surely best.
        ({"tuned": [0.9] * 8, "prompt": [0.4] * 8}, Ship(name="tuned")),
        ({"tuned": [0.5] * 8, "sft": [0.9] * 8}, Ship(name="sft")),
        # As good, and cheaper at use.
        ({"tuned": [0.5] * 8, "best_of_n": [0.5] * 8}, Ship(name="tuned", as_well=("best_of_n",))),
        (
            {"best_of_n": [0.5] * 8, "tuned": [0.5] * 8, "sft": [0.5] * 8, "prompt": [0.5] * 8},
            Ship(name="prompt", as_well=("sft", "tuned", "best_of_n")),
        ),
        # A rival that may be no better than base, and may be as good as the best.
        (
            {"tuned": [0.5] * 8, "prompt": [0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 3.0]},
            Ship(name="tuned", unsure=("prompt",)),
        ),
    ],
)
def test_what_to_ship(rewards: dict[str, list[float | None]], expected: Ship) -> None:
    assert to_ship({"base": [0.2] * 8, **rewards}, exact) == expected


def test_prompts_without_a_reward_of_each_do_not_count() -> None:
    many = {"base": [0.2] * 6, "tuned": [None, 0.5, 0.5, 0.5, 0.5, 0.5]}
    assert to_ship(many, exact) == Ship(name="tuned")
    assert to_ship({**many, "sft": [0.5, None, 0.5, 0.5, 0.5, 0.5]}, exact) is None
    assert rewards(side(0.5, None)) == [0.5, None]


def contest(**missing: str) -> Contest:
    made = Made(how="tried", answers=64, calls=3, cost_usd=0.25, seconds=90.0, tokens=80.0, draws=8)
    return Contest(
        took=Took(answers=512, cost_usd=0.0, seconds=300.0), made={"best_of_n": made}, missing=missing
    )


def test_a_comparison_knows_its_rivals() -> None:
    """By hand: best of n has 0.9 on each prompt, tuned 0.5, base 0.2."""
    sides = {"base": side(*[0.2] * 8), "best_of_n": side(*[0.9] * 8), "tuned": side(*[0.5] * 8)}
    other = Other(mean=0.9, ci95=(0.9, 0.9), tuned_minus=estimate(-0.4))
    plain = comparison("better", contrast(0.2, 0.5, 0.0), prompts=8, others={"best_of_n": other})
    c = with_rivals(plain, sides, contest(sft="No endpoint."), resamples=100, seed=0)
    found = c.others["best_of_n"]
    assert found.over_base is not None
    assert found.over_base.mean == pytest.approx(0.7)
    assert (found.mean, found.how, found.cost_usd, found.seconds, found.draws) == (
        0.9,
        "tried",
        0.25,
        90.0,
        8,
    )
    assert c.ship == Ship(name="best_of_n")
    assert c.others_missing == {"sft": "No endpoint."}
    assert (to_make("best_of_n", c), to_make("tuned", c), to_make("base", c)) == (
        "90 s, $0.25",
        "5 min",
        "nothing",
    )
    text = "The base model fine-tuned on its own best answers is missing: No endpoint."
    assert cautions(c)["missing_sft"] == text
    assert (
        said_with(c)[0]
        == shipping(c)
        == (
            "Ship best of 8 (0.900). Surely behind: base 0.200, tuned 0.500. To make: best of 8 90 s, $0.25; "
            "tuned 5 min."
        )
    )
    assert "beside_best_of_n" not in cautions(c)


def test_a_rival_without_scores_is_missing() -> None:
    plain = comparison("better", contrast(0.2, 0.5), prompts=8)
    sides = {"base": side(*[0.2] * 8), "best_of_n": side(*[None] * 8), "tuned": side(*[0.5] * 8)}
    c = with_rivals(plain, sides, contest(), resamples=100, seed=0)
    assert c.others == {}
    assert c.others_missing["best_of_n"].startswith("None of the held-out prompts has scores")
    assert c.ship == Ship(name="tuned")


def test_a_tie_is_said_with_its_price() -> None:
    tie = Other(
        mean=0.5, ci95=(0.4, 0.6), tuned_minus=estimate(0.0, by=0.1), how="tried", tokens=80.0, draws=8
    )
    c = comparison(
        "better",
        contrast(0.2, 0.5),
        others={"best_of_n": tie},
        ship=Ship(name="tuned", as_well=("best_of_n",)),
        content={"tuned": Content(tokens=10.0, kept=None)},
    )
    assert shipping(c).startswith(
        "Ship the tuned model (0.500). Best of 8 does as well (0.500) at 8 times the tokens an answer, and "
        "needs the reward at each use. Surely behind: base 0.200."
    )
    assert shipping(replace(c, ship=Ship(name="base", unsure=("best_of_n", "tuned")))).startswith(
        "Ship the base model (0.200): nothing is shown to be better (best of 8 0.500, tuned 0.500)."
    )
    assert shipping(replace(c, ship=None)) == ""
