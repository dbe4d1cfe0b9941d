from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import make
from refine_rl.errors import UserError
from refine_rl.evaluate import looks, power
from refine_rl.evaluate.audit import audit
from refine_rl.evaluate.compare import compare, met_in_training, spread
from refine_rl.evaluate.curves import sharpening
from refine_rl.evaluate.power import detectable, prompts_needed
from refine_rl.evaluate.stats import paired
from refine_rl.evaluate.verdict import cautions, verdict
from refine_rl.types import (
    Comparison,
    Contrast,
    Estimate,
    Outcome,
    Part,
    Prompt,
    Score,
    Trajectory,
    Variety,
)

RESAMPLES, SEED = 200, 11


def attempt(prompt: Prompt, text: str, score: Score) -> tuple[Trajectory, Score]:
    return make.trajectory(prompt, text), score


def score(value: float | None) -> Score:
    return make.score(value, **({} if value is None else {"short": value, "kind": value / 2}))


def outcome(
    name: str, sampled: Sequence[float | None], greedy: float | None, style: str = "", who: str = "x"
) -> Outcome:
    facets = {"style": style} if style else {}
    prompt = make.prompt(name, f"say {name}", split="held_out", facets=facets)
    return Outcome(
        prompt=prompt,
        sampled=tuple(attempt(prompt, f"{who} {name} {i}", score(v)) for i, v in enumerate(sampled)),
        greedy=attempt(prompt, f"{who} {name} greedy", score(greedy)),
    )


def run(
    base: Sequence[Outcome], tuned: Sequence[Outcome], max_examples: int = 24, **known: Any
) -> Comparison:
    return compare(
        base,
        tuned,
        success=lambda s: s.value is not None and s.value >= 1,
        resamples=RESAMPLES,
        seed=SEED,
        max_examples=max_examples,
        **known,
    )


def expected(base: list[float], tuned: list[float]) -> Contrast:
    return paired(base, tuned, resamples=RESAMPLES, seed=SEED)


def test_every_measure_is_a_mean_a_prompt() -> None:
    base = [outcome("a", [0.0, 0.5], 0.25), outcome("b", [0.5, 1.0], 1.0), outcome("c", [0.0, 0.0], 0.0)]
    tuned = [outcome("a", [1.0, 1.0], 1.0), outcome("b", [1.0, 0.5], 0.5), outcome("c", [0.5, 1.0], 1.0)]
    result = run(base, tuned)
    reward = expected([0.25, 0.75, 0.0], [1.0, 0.75, 0.75])
    assert (result.base, result.tuned, result.difference) == (reward.base, reward.tuned, reward.difference)
    assert result.details == {
        "greedy": expected([0.25, 1.0, 0.0], [1.0, 0.5, 1.0]),
        "success": expected([0.0, 0.5, 0.0], [1.0, 0.5, 0.5]),
        "success_greedy": expected([0.0, 1.0, 0.0], [1.0, 0.0, 1.0]),
        "component:short": reward,
        "component:kind": expected([0.125, 0.375, 0.0], [0.5, 0.375, 0.375]),
        "cut": expected([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    }
    assert (result.prompts, result.samples, result.prompts_missing) == (3, 2, 0)


@pytest.mark.parametrize(
    ("ci95", "word"),
    [
        ((0.01, 0.2), "better"),
        ((0.0, 0.2), "not better"),
        ((-0.1, 0.2), "not better"),
        ((0.0, 0.0), "not better"),
        ((-0.2, 0.0), "not better"),
        ((-0.2, -0.01), "worse"),
    ],
)
def test_the_verdict_is_the_sign_of_the_interval(ci95: tuple[float, float], word: str) -> None:
    assert verdict(Estimate(mean=sum(ci95) / 2, ci95=ci95), 5) == word
    assert verdict(Estimate(mean=sum(ci95) / 2, ci95=ci95), 4) == "too few to tell"


def test_the_verdict_needs_the_pairing() -> None:
    base = [outcome(str(i), [i / 10], 0.0) for i in range(10)]
    tuned = [outcome(str(i), [i / 10 + 0.05], 0.0) for i in range(10)]
    assert run(base, tuned).verdict == "better"
    assert run(tuned, base).verdict == "worse"
    assert run(base, base).verdict == "not better"


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_prompt_without_any_sampled_score_is_left_out_on_both_sides(side: str) -> None:
    base = [outcome("a", [0.0, 0.0], 0.0), outcome("b", [0.0, 0.0], 0.0)]
    tuned = [outcome("a", [1.0, 1.0], 1.0), outcome("b", [1.0, 1.0], 1.0)]
    (base if side == "base" else tuned)[1] = outcome("b", [None, None], 0.5)
    result = run(base, tuned)
    assert (result.prompts, result.prompts_missing, result.prompts_asked) == (1, 1, 2)
    assert result.scores_missing == {"base": 0, "tuned": 0} | {side: 2}
    assert result.reward == expected([0.0], [1.0])
    assert [e.prompt for e in result.examples] == ["say a"]


def test_a_prompt_counts_by_the_scores_that_it_has() -> None:
    base = [outcome("a", [0.0, None], 0.0), outcome("b", [0.25, 0.75], None), outcome("c", [0.5, 0.5], 1.0)]
    tuned = [outcome("a", [1.0, 0.5], 1.0), outcome("b", [None, 1.0], 1.0), outcome("c", [0.0, 1.0], 0.0)]
    result = run(base, tuned)
    assert (result.prompts, result.prompts_missing) == (3, 0)
    assert result.scores_missing == {"base": 2, "tuned": 1}
    assert result.reward == expected([0.0, 0.5, 0.5], [0.75, 1.0, 0.5])
    assert result.details["greedy"] == expected([0.0, 1.0], [1.0, 0.0])  # "b" has no greedy score of base
    assert result.details["success"] == expected([0.0, 0.0, 0.0], [0.5, 1.0, 0.5])
    assert result.details["success_greedy"] == expected([0.0, 1.0], [1.0, 0.0])
    assert result.details["component:short"] == result.reward


def test_scores_lost_at_random_lose_no_prompts() -> None:
    """15 % of the calls fail: of 40 prompts with 4 answers on each side all are compared, where a demand for
    whole prompts would leave about 8."""
    chance = random.Random(0)

    def flaky(value: float) -> list[float | None]:
        return [None if chance.random() < 0.15 else value for _ in range(4)]

    base = [outcome(str(i), flaky(0.25), 0.25) for i in range(40)]
    tuned = [outcome(str(i), flaky(0.75), 0.75) for i in range(40)]
    result = run(base, tuned)
    assert (result.prompts, result.verdict) == (40, "better")
    assert result.difference == Estimate(mean=0.5, ci95=(0.5, 0.5))
    assert sum(result.scores_missing.values()) > 30


def test_a_measure_that_few_prompts_have_is_no_evidence_beside_a_reward_that_has_an_interval() -> None:
    """One greedy answer of many that has a score: its interval would have no width."""
    for greedy in (1, 4, 5):
        base = [outcome(f"p{n}", [0.25], 0.75 if n < greedy else None) for n in range(20)]
        tuned = [outcome(f"p{n}", [0.5], 0.25 if n < greedy else None) for n in range(20)]
        compared = run(base, tuned)
        assert compared.verdict == "better"
        assert ("greedy" in compared.details) == ("success_greedy" in compared.details) == (greedy == 5)
        assert ("greedy" in audit(compared, {})) == (greedy == 5)
    assert "greedy" in run(base[:1], tuned[:1]).details  # here nothing has an interval


def test_no_prompt_left_is_a_verdict_and_no_prompt_at_all_an_error() -> None:
    result = run([outcome("a", [None], 1.0, who="base")], [outcome("a", [1.0], 1.0)])
    assert (result.verdict, result.prompts, result.prompts_missing) == ("not possible", 0, 1)
    assert result.base is result.tuned is result.difference is result.reward is None
    assert set(result.details) == {"cut"}
    assert [(e.prompt, e.base, e.base_reward) for e in result.examples] == [
        ("say a", "base a greedy", 1.0)
    ]  # what was answered can be read all the same
    assert str(result) == (
        "not possible: scores of both models on 0 of 1 held-out prompts, answers cut at the token limit: "
        "base 0%, tuned 0%"
    )
    with pytest.raises(UserError, match="no held-out prompts"):
        run([], [])


def test_without_an_update_the_verdict_is_no_signal() -> None:
    answers = [outcome(str(i), [1.0], 1.0) for i in range(8)]
    better = [outcome(str(i), [0.0], 0.0) for i in range(8)]
    # A judge's mood may make a difference where there is none.
    assert run(better, answers, updated=False).verdict == "no signal"
    assert run(better[:2], answers[:2], updated=False).verdict == "no signal"
    nothing = [outcome("a", [None], None)]
    assert run(nothing, nothing, updated=False).verdict == "no signal"


def test_cut_answers_are_counted_by_prompt() -> None:
    def cut(text: Outcome, *which: int) -> Outcome:
        sampled = [
            (dataclasses.replace(t, stop_reason="length") if i in which else t, s)
            for i, (t, s) in enumerate(text.sampled)
        ]
        return dataclasses.replace(text, sampled=tuple(sampled))

    base = [cut(outcome("a", [0.0, 0.0], 0.0), 0, 1), cut(outcome("b", [0.0, 0.0], 0.0), 1)]
    tuned = [outcome("a", [0.0, 0.0], 0.0), outcome("b", [0.0, 0.0], 0.0)]
    assert run(base, tuned).details["cut"] == expected([1.0, 0.5], [0.0, 0.0])


def styled(name: str, value: float | None, style: str, topic: str) -> Outcome:
    found = outcome(name, [value], value)
    prompt = dataclasses.replace(found.prompt, facets={"style": style, "topic": topic})
    return dataclasses.replace(found, prompt=prompt)


def test_rewards_by_facet_and_by_combination() -> None:
    where = [("pirate", "tea"), ("pirate", "rain"), ("haiku", "tea"), ("haiku", "rain"), ("haiku", "rain")]
    base = [styled(str(i), 0.0, *place) for i, place in enumerate(where)]
    rewards = [1, 0.5, 0.25, None, 0.75]
    tuned = [styled(str(i), v, *where[i]) for i, v in enumerate(rewards)]
    seen = met_in_training(
        dataclasses.replace(base[i].prompt, split=split)
        for i, split in ((0, "train"), (1, "validation"), (2, "held_out"))
    )
    result = run(base, tuned, seen=seen)

    def part(*values: float) -> Part:
        found = expected([0.0] * len(values), list(values))
        return Part(prompts=len(values), base=found.base, tuned=found.tuned, difference=found.difference)

    assert result.facets == {
        "style": {"pirate": part(1, 0.5), "haiku": part(0.25, 0.75)},
        "topic": {"tea": part(1, 0.25), "rain": part(0.5, 0.75)},
    }
    assert result.combinations == {"seen": part(1, 0.5), "unseen": part(0.25, 0.75)}
    assert run(base, tuned).combinations == {}  # not known
    everything = met_in_training(dataclasses.replace(o.prompt, split="train") for o in base)
    assert run(base, tuned, seen=everything).combinations == {}  # nothing is held out whole
    assert set(run(base, tuned, seen=set()).combinations) == {"unseen"}
    plain = [outcome("a", [1.0], 1.0)]
    assert (run(plain, plain, seen=set()).facets, run(plain, plain, seen=set()).combinations) == ({}, {})


def test_what_holds_is_corrected_for_all_parts_that_were_looked_at() -> None:
    """Ten prompts of each style: pirate gains everywhere, haiku half of the time, ode loses everywhere."""
    gains = {"pirate": [0.5] * 10, "haiku": [0.5, -0.5] * 5, "ode": [-0.25] * 10, "limerick": [0.5] * 4}
    base, tuned = [], []
    for style, values in gains.items():
        for i, gain in enumerate(values):
            base.append(outcome(f"{style}{i}", [0.5], 0.5, style))
            tuned.append(outcome(f"{style}{i}", [0.5 + gain], 0.5, style))
    result = run(base, tuned)
    parts = result.facets["style"]
    assert {v: (p.chance, p.holds) for v, p in parts.items()} == {
        "pirate": (2 / 1024, True),
        "haiku": (1.0, False),
        "ode": (2 / 1024, True),
        "limerick": (None, False),
    }
    assert looks.told(result) == [
        "Of 3 parts by facet, 1 gains for itself, corrected for so many looks: style pirate +0.500.",
        "Of 3 parts by facet, 1 loses for itself, corrected for so many looks: style ode -0.250.",
    ]
    better = dataclasses.replace(result, verdict="better")
    assert cautions(better)["lost_by_facet"] == looks.told(result)[1]
    assert "lost_by_facet" not in cautions(dataclasses.replace(result, verdict="not better"))


def slow_curve(values: Sequence[float], k: int, worth: Callable[[Sequence[float]], float]) -> float:
    chosen = list(itertools.combinations(values, k))
    return sum(map(worth, chosen)) / len(chosen)


def test_curves_are_means_over_all_choices_of_answers() -> None:
    rewards = {
        "base": [[0.0, 0.5, 1.0, 0.0], [0.0, 0.0, 0.0, 0.25], [1.0, 1.0, 0.5, 0.0]],
        "tuned": [[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
    }
    sides = {side: [outcome(str(i), v, 0.0) for i, v in enumerate(each)] for side, each in rewards.items()}
    result = run(sides["base"], sides["tuned"])
    for k in (1, 2, 3, 4):
        for name, worth in {"best": max, "pass": lambda some: float(max(some) >= 1)}.items():
            means = {s: [slow_curve(v, k, worth) for v in each] for s, each in rewards.items()}
            found, plain = result.curves[name][k - 1], expected(means["base"], means["tuned"])
            for side in ("base", "tuned", "difference"):
                ours, theirs = getattr(found, side), getattr(plain, side)
                assert (ours.mean, *ours.ci95) == pytest.approx((theirs.mean, *theirs.ci95)), (name, k, side)
    assert result.curves["best"][0].tuned.mean == pytest.approx(result.tuned.mean if result.tuned else 0)
    lost = [*sides["tuned"][:2], outcome("2", [1.0, 1.0, None, 1.0], 0.0)]
    assert run(sides["base"], lost).curves["best"][3].tuned.mean == 0.75  # without the third prompt
    assert run([outcome("a", [0.5], 0.5)], [outcome("a", [1.0], 1.0)]).curves == {}


@pytest.mark.parametrize(
    ("base", "tuned", "begins"),
    [
        ([0.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], "Sharpened, not learnt: in one try"),
        (
            [0.0, 0.0, 0.0, 1.0],
            [1.0, 1.0, 1.0, 1.0],
            "Learnt or only sharpened: not told apart. The best of 4",
        ),
        ([0.0, 0.0, 0.0, 0.5], [0.5, 0.5, 0.75, 1.0], "Beyond sharpening, as far as 4 tries show"),
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], ""),
    ],
)
def test_sharpening_is_told_from_learning(base: list[float], tuned: list[float], begins: str) -> None:
    names = [f"p{i}" for i in range(6)]
    result = run([outcome(n, base, 0.0) for n in names], [outcome(n, tuned, 0.0) for n in names])
    said = sharpening(result)
    assert said.startswith(begins)
    assert bool(said) == bool(begins)
    assert ("sharpened" in cautions(result)) == begins.startswith("Sharpened")


def test_what_the_prompts_could_have_shown_stands_in_the_comparison() -> None:
    names = [f"p{i}" for i in range(16)]
    base = [outcome(n, [0.5], 0.5) for n in names]
    gains = [0.5, -0.5] * 6 + [0.5, 0.5, -0.5, 0.5]  # mean 1/16
    tuned = [outcome(n, [0.5 + g], 0.5) for n, g in zip(names, gains, strict=True)]
    result = run(base, tuned, matters=0.25)
    wide = statistics.stdev(gains)
    assert result.verdict == "not better"
    assert result.detectable == pytest.approx(detectable(wide, 16))
    needed = {"observed": prompts_needed(wide, 1 / 16), "matters": prompts_needed(wide, 0.25)}
    assert result.prompts_needed == needed
    said = (
        "16 prompts like these show a true difference of 0.384 or more in 80 of 100 cases. The one observed "
        "(+0.062) would take about 530 of them: prompts.held_out = 530. One of 0.250 takes about 35."
    )
    assert power.told(result) == cautions(result)["power"] == said
    alike = run(base, [outcome(n, [0.75], 0.5) for n in names], matters=0.25)
    assert (alike.detectable, alike.prompts_needed, power.told(alike)) == (None, {}, "")
    tiny = dataclasses.replace(result, prompts_needed={"observed": None, "matters": None})
    assert "too small for any number" in power.told(tiny)
    assert power.told(tiny).endswith("One of 0.250 takes more than 100,000.")
    assert "prompts.held_out" not in power.told(dataclasses.replace(result, verdict="better"))
    assert power.told(dataclasses.replace(result, verdict="no signal")) == ""


def test_the_variety_is_that_of_all_sampled_answers_and_of_the_greedy_ones() -> None:
    base = [outcome("a", [1.0, None], 1.0, who="base"), outcome("b", [None, None], 1.0, who="base")]
    tuned = [
        dataclasses.replace(o, sampled=tuple(attempt(o.prompt, "Ahoy", score(1.0)) for _ in range(2)))
        for o in base
    ]
    found = run(base, tuned).variety
    assert found["base"] == Variety(distinct_share=1.0)
    assert found["tuned"] == Variety(distinct_share=0.0, openings={"Ahoy": 1.0})
    assert found["base_greedy"] == found["tuned_greedy"] == Variety(distinct_share=1.0)


def test_other_prompts_or_another_order_are_refused() -> None:
    a, b = outcome("a", [1.0], 1.0), outcome("b", [1.0], 1.0)
    with pytest.raises(UserError, match="prompt 1 is 'a' for base and 'b' for tuned"):
        run([a, b], [b, a])
    with pytest.raises(UserError, match="base answered 2 prompts and tuned 1"):
        run([a, b], [a])
    with pytest.raises(UserError, match=r"'a' has 1 sampled answers of base and 2"):
        run([a], [outcome("a", [1.0, 0.0], 1.0)])
    with pytest.raises(UserError, match="at least 1"):
        run([outcome("a", [], 1.0)], [outcome("a", [], 1.0)])


def test_a_component_that_an_answer_lacks_is_compared_without_its_prompt() -> None:
    prompt = outcome("b", [1.0], 1.0).prompt
    empty = Score(value=0.0, status="invalid", explanation="no JSON at all")
    bare = Outcome(prompt=prompt, sampled=(attempt(prompt, "", empty),), greedy=attempt(prompt, "", empty))
    result = run([outcome("a", [0.5], 0.5), bare], [outcome("a", [1.0], 1.0), outcome("b", [0.5], 0.5)])
    assert result.prompts == 2
    assert result.base.mean == 0.25  # an invalid score is the completion's own fault and counts
    assert result.details["component:short"] == expected([0.5], [1.0])


def test_examples_are_greedy_answers_whatever_their_reward() -> None:
    base = [outcome(n, [1.0, 1.0], v, who="base") for n, v in [("a", 0.0), ("b", 1.0), ("c", 0.5)]]
    tuned = [outcome(n, [0.0, 0.0], v, who="tuned") for n, v in [("a", 0.5), ("b", 0.25), ("c", 1.0)]]
    result = run(base, tuned, max_examples=2)
    assert [(e.prompt, e.base, e.tuned, e.base_reward, e.tuned_reward) for e in result.examples] == [
        ("say a", "base a greedy", "tuned a greedy", 0.0, 0.5),
        ("say b", "base b greedy", "tuned b greedy", 1.0, 0.25),
    ]


def test_examples_are_spread_over_the_facets_in_held_out_order() -> None:
    styles = ["pirate"] * 4 + ["haiku"] * 4 + ["formal"] * 2
    facets = [{"style": style, "topic": str(i % 2)} for i, style in enumerate(styles)]
    # pirate 0; then an unseen style and topic (haiku 1), an unseen style (formal 0), then the other
    # topic of a style seen once (pirate 1).
    assert spread(facets, 4) == [0, 1, 5, 8]
    assert spread(facets, 100) == list(range(10))
    assert spread([{}, {}, {}], 2) == [0, 1]
    answers = [outcome(str(i), [1.0], 1.0, style=s) for i, s in enumerate(styles)]
    assert [e.facets["style"] for e in run(answers, answers, 3).examples] == ["pirate", "haiku", "formal"]


def test_a_further_model_stands_beside_the_tuned_one_on_the_same_prompts() -> None:
    names = "abcdef"
    base = [outcome(n, [0.0, 0.0], 0.0) for n in names]
    after_sft = [outcome(n, [0.5, 1.0 if n == "a" else 0.5], 0.25, who="sft") for n in names]
    tuned = [outcome(n, [1.0, 0.5], 1.0) for n in names]
    found = run(base, tuned, others={"sft": after_sft})
    sft = found.others["sft"]
    each = expected([0.75, 0.5, 0.5, 0.5, 0.5, 0.5], [0.75] * 6)
    assert (sft.mean, sft.ci95, sft.tuned_minus) == (each.base.mean, each.base.ci95, each.difference)
    assert sft.tuned_minus.mean == pytest.approx(1.25 / 6)
    assert sft.details["greedy"] == expected([0.25] * 6, [1.0] * 6)
    assert sft.details["component:kind"].difference.mean == pytest.approx(1.25 / 12)
    assert found.examples[0].others == {"sft": "sft a greedy"}
    assert found.base == run(base, tuned).base  # the two of the verdict are as they would be alone
    with pytest.raises(UserError, match="'b' for sft"):
        run(base, tuned, others={"sft": after_sft[1:2] * 6})


def test_a_further_model_without_scores_is_left_out() -> None:
    base, tuned = [outcome("a", [0.0], 0.0)], [outcome("a", [1.0], 1.0)]
    assert run(base, tuned, others={"sft": [outcome("a", [None], None)]}).others == {}
