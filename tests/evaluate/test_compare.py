from __future__ import annotations

from collections.abc import Sequence

import pytest

from refine_rl.errors import UserError
from refine_rl.evaluate.compare import compare, spread, verdict
from refine_rl.evaluate.stats import paired
from refine_rl.types import Comparison, Contrast, Estimate, Outcome, Prompt, Score, Segment, Trajectory

RESAMPLES, SEED = 200, 11


def attempt(prompt: Prompt, text: str, score: Score) -> tuple[Trajectory, Score]:
    trajectory = Trajectory(
        prompt_id=prompt.id,
        member=0,
        messages=(*prompt.messages, {"role": "assistant", "content": text}),
        segments=(Segment(token_ids=(1,), trainable=False),),
        stop_reason="stop",
    )
    return trajectory, score


def score(value: float | None) -> Score:
    if value is None:
        return Score.missing("the judge did not answer")
    return Score(value=value, breakdown={"short": value, "kind": value / 2})


def outcome(
    name: str, sampled: Sequence[float | None], greedy: float | None, style: str = "", who: str = "x"
) -> Outcome:
    prompt = Prompt(
        id=name,
        split="held_out",
        messages=({"role": "user", "content": f"say {name}"},),
        facets={"style": style} if style else {},
    )
    return Outcome(
        prompt=prompt,
        sampled=tuple(attempt(prompt, f"{who} {name} {i}", score(v)) for i, v in enumerate(sampled)),
        greedy=attempt(prompt, f"{who} {name} greedy", score(greedy)),
    )


def run(base: Sequence[Outcome], tuned: Sequence[Outcome], max_examples: int = 24) -> Comparison:
    return compare(
        base,
        tuned,
        success=lambda s: s.value is not None and s.value >= 1,
        resamples=RESAMPLES,
        seed=SEED,
        max_examples=max_examples,
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
    assert verdict(Estimate(mean=sum(ci95) / 2, ci95=ci95), 4) == "not better"


def test_the_verdict_needs_the_pairing() -> None:
    base = [outcome(str(i), [i / 10], 0.0) for i in range(10)]
    tuned = [outcome(str(i), [i / 10 + 0.05], 0.0) for i in range(10)]
    assert run(base, tuned).verdict == "better"
    assert run(tuned, base).verdict == "worse"
    assert run(base, base).verdict == "not better"


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("broken", [outcome("b", [0.5, None], 1.0), outcome("b", [0.5, 0.5], None)])
def test_a_missing_score_takes_the_prompt_out_on_both_sides(side: str, broken: Outcome) -> None:
    base = [outcome("a", [0.0, 0.0], 0.0), outcome("b", [0.0, 0.0], 0.0)]
    tuned = [outcome("a", [1.0, 1.0], 1.0), outcome("b", [1.0, 1.0], 1.0)]
    (base if side == "base" else tuned)[1] = broken
    result = run(base, tuned)
    assert (result.prompts, result.prompts_missing) == (1, 1)
    assert (result.base.mean, result.tuned.mean) == (0.0, 1.0)
    assert [e.prompt for e in result.examples] == ["say a"]


def test_no_prompt_left_is_said() -> None:
    with pytest.raises(UserError, match="each of the 1 held-out prompts has a missing score"):
        run([outcome("a", [None], 1.0)], [outcome("a", [1.0], 1.0)])
    with pytest.raises(UserError, match="no held-out prompts"):
        run([], [])


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
