"""What the reward goes with among answers to the same prompt, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest

from refine_rl.evaluate.traits import TRAITS, by_step, due, paid_for, traits_of
from refine_rl.report.survey import Seen
from refine_rl.report.traits import trait_charts
from refine_rl.types import decimals

Values = tuple[float, ...]


def run(
    length: Callable[[int, int], Values], reward: Callable[[Values, int], Values], steps: int = 12
) -> list[Seen]:
    """Four groups of four a step; nothing but the length of answers varies, by step and prompt."""
    groups = []
    for step in range(1, steps + 1):
        for n in range(4):
            lengths = length(step, n)
            groups.append(
                Seen(
                    step=step,
                    prompt=f"p{n}",
                    rewards=reward(lengths, n),
                    agreement=None,
                    size=1,
                    traits={name: lengths if name == "length" else (0.0,) * 4 for name in TRAITS},
                )
            )
    return groups


def growing(step: int, n: int) -> Values:
    draw = np.random.default_rng((step, n))
    return tuple(float(x) for x in 10 * step + draw.normal(size=4))


def level(step: int, n: int) -> Values:
    return growing(1, 4 * step + n)


def paid_by_length(lengths: Values, n: int) -> Values:
    return tuple(x / 100 for x in lengths)


def paid_by_chance(lengths: Values, n: int) -> Values:
    return tuple(float(x) for x in np.random.default_rng((int(1000 * lengths[0]), n)).normal(size=4))


def test_what_is_paid_for_and_grows_is_told_with_answers_to_look_at() -> None:
    groups = run(growing, paid_by_length)
    told = paid_for(groups)
    assert list(told) == ["length"]
    assert (
        "rises with length (characters): +1.00 among answers to the same prompt in the last 5 steps"
        in told["length"]
    )
    first, last = ([x for g in some for x in g.traits["length"]] for some in (groups[:20], groups[-20:]))
    assert f"grew from {decimals(fmean(first))} to {decimals(fmean(last))} an answer" in told["length"]
    best = max(groups[-4:], key=lambda g: max(g.traits["length"]))
    member = max(range(4), key=lambda i: best.traits["length"][i])
    assert f"Look at step 12, {best.prompt}, answer {member}, step" in told["length"]
    charts = [chart for chart in trait_charts(groups) if chart is not None]
    assert [chart.name for chart in charts] == ["goes-with-length"]
    assert charts[0].good.endswith(told["length"])


@pytest.mark.parametrize(
    ("length", "reward"), [(growing, paid_by_chance), (level, paid_by_length), (level, paid_by_chance)]
)
def test_what_grows_unpaid_or_is_paid_without_growing_is_not_told(
    length: Callable[[int, int], Values], reward: Callable[[Values, int], Values]
) -> None:
    assert paid_for(run(length, reward)) == {}


def test_the_more_often_it_is_asked_the_surer_it_has_to_be() -> None:
    assert [step for step in range(1, 24) if due(step)] == [10, 15, 20]

    def weakly(lengths: Values, n: int) -> Values:
        chance = paid_by_chance(lengths, n)
        return tuple(x + 2 * c for x, c in zip(lengths, chance, strict=True))

    groups = run(growing, weakly)
    assert list(paid_for(groups)) == ["length"]
    assert paid_for(groups, worth=0.9) == {}
    assert paid_for(groups, planned=10**5) == {}


def test_a_short_run_says_nothing() -> None:
    assert paid_for(run(growing, paid_by_length, steps=9)) == {}
    assert paid_for([]) == {}


def test_correlations_by_step_leave_out_what_prompts_differ_in() -> None:
    long, short = (9.0, 10.0), (1.0, 2.0)
    traits = dict.fromkeys(TRAITS, (0.0, 0.0))
    groups = [  # within each prompt shorter is better; the prompt with long answers is the easy one
        Seen(
            step=1, prompt="a", rewards=(1.0, 0.75), agreement=None, size=1, traits={**traits, "length": long}
        ),
        Seen(
            step=1,
            prompt="b",
            rewards=(0.25, 0.0),
            agreement=None,
            size=1,
            traits={**traits, "length": short},
        ),
        Seen(
            step=2, prompt="a", rewards=(None, 0.5), agreement=None, size=1, traits={**traits, "length": long}
        ),
        Seen(step=3, prompt="a", rewards=(0.0, 0.5), agreement=None, size=1),
    ]
    found = by_step(groups)
    assert found["length"] == {1: pytest.approx(-1.0), 2: None, 3: None}
    assert found["copied"] == {1: None, 2: None, 3: None}


def test_traits_of_an_answer() -> None:
    found = traits_of("a b c d", "- a b c\n* x: y!\n1. **b** __c__\nno - list")
    assert (found["lists"], found["bold"], found["colons"], found["exclamations"]) == (3.0, 2.0, 1.0, 1.0)
    assert traits_of("a b c d", "a b c d")["copied"] == 1.0
    assert traits_of("a b c d", "x y z x y z x")["repeated"] == pytest.approx(2 / 5)
    assert set(traits_of("", "").values()) == {0.0}
