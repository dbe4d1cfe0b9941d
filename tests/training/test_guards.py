"""Guards and warnings over made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from make import metrics
from refine_rl.errors import GuardStop
from refine_rl.settings import Settings
from refine_rl.training import guards
from refine_rl.training.grpo.setup import guards_of
from refine_rl.types import StepMetrics


def history(*changes: dict[str, Any]) -> list[StepMetrics]:
    return [metrics(n, **c) for n, c in enumerate(changes, start=1)]


def settings(**grpo: Any) -> Settings:
    return Settings.model_validate({"task": "x", "grpo": grpo})


def stopped(past: list[StepMetrics], **grpo: Any) -> str | None:
    try:
        guards_of(settings(**grpo)).stop(past)
    except GuardStop as stop:
        assert stop.exit_code == 3
        assert stop.advice
        return stop.guard
    return None


def test_a_healthy_run_goes_on() -> None:
    past = history(*[{}] * 30)
    assert stopped(past) is None
    assert guards.warnings(past) == {}


def test_a_reward_that_falls() -> None:
    def told(*rewards: float) -> bool:
        return "reward_fall" in guards.warnings(history(*[{"reward_mean": r} for r in rewards]))

    good, bad = (0.80, 0.84, 0.82, 0.86, 0.88), (0.42, 0.38, 0.45, 0.40, 0.35)
    assert told(*good, *bad)
    assert told(*[0.2] * 5, *good, *bad)
    assert not told(*good, *bad[:4])  # windows that overlap tell nothing
    assert not told(*bad, *good)
    assert not told(*good, *[0.68] * 5)  # by less than a quarter
    assert not told(*(1.0, 0.1, 1.0, 0.1, 0.9), *(0.1, 0.9, 0.1, 0.1, 0.1))  # within its noise
    assert not told(*good, *bad, *good)  # it came back
    assert not told(*[-1.0] * 5, *[-0.5] * 5)
    text = guards.warnings(history(*[{"reward_mean": r} for r in (*good, *bad)]))["reward_fall"]
    assert text.startswith("The mean reward of 5 steps fell from 0.840 to 0.400: ")


def test_all_cut() -> None:
    assert stopped(history({"clipped_share": 1.0})) == "all_cut"
    assert stopped(history({"clipped_share": 0.99})) is None
    assert stopped(history({}, {"clipped_share": 1.0}), all_cut_patience=2) is None
    assert stopped(history({"clipped_share": 1.0}, {"clipped_share": 1.0}), all_cut_patience=2) == "all_cut"


def test_all_cut_names_every_limit_that_cuts() -> None:
    both = {"max_tokens": 60, "early_exit": {"ends": "</think>", "answer_tokens": 5}}
    with pytest.raises(
        GuardStop, match=r"cut at rollout.max_tokens = 60 or rollout.early_exit.answer_tokens = 5"
    ):
        guards_of(Settings.model_validate({"task": "x", "rollout": both})).stop(
            history({"clipped_share": 1.0})
        )
    with pytest.raises(GuardStop, match=r"cut at rollout.max_tokens = \d+; none"):
        guards_of(settings()).stop(history({"clipped_share": 1.0}))


def test_all_cut_that_training_brought_about_is_another_thing() -> None:
    with pytest.raises(GuardStop) as began_so:
        guards_of(settings()).stop(history({"clipped_share": 0.5}, {"clipped_share": 1.0}))
    assert began_so.value.advice.startswith("Start anew with a larger rollout.max_tokens, ")
    with pytest.raises(GuardStop) as became_so:
        guards_of(settings()).stop(history({"clipped_share": 0.02}, {"clipped_share": 1.0}))
    assert became_so.value.advice.startswith("In the first step 2 % were: it is training that took the end")
    assert "lower grpo.learning_rate" in became_so.value.advice


def test_no_variance_needs_the_whole_patience() -> None:
    flat = {"groups_zero_variance": 4}
    assert stopped(history(*[flat] * 3), zero_variance_patience=3) == "no_variance"
    assert stopped(history(*[flat] * 2), zero_variance_patience=3) is None
    assert stopped(history(flat, {"groups_zero_variance": 3}, flat), zero_variance_patience=3) is None


def test_graded_steps_are_something_to_learn_from() -> None:
    shaped = {"groups_zero_variance": 4, "groups_by_steps": 1}
    assert stopped(history(*[shaped] * 3), zero_variance_patience=3) is None
    assert guards.warnings(history(*[shaped] * 10)) == {}


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({}, r"\(mean 0.500\), so there was nothing to learn from"),
        ({"grpo": {"resample": 4}}, r"nor had those sampled in their place \(grpo.resample = 4\)"),
        ({"grpo": {"flat": "sign", "solved": 1.0}}, r"pushed all answers to a prompt the same way"),
        (
            {"grpo": {"flat": "steps", "solved": 1.0}, "reward": {"steps": {"judges": ["a/b"]}}},
            r"and the steps of their answers did not differ either",
        ),
    ],
)
def test_no_variance_says_what_it_means_here(sections: dict[str, Any], text: str) -> None:
    s = Settings.model_validate({"task": "x", **sections})
    with pytest.raises(GuardStop, match=text):
        guards_of(s).stop(history(*[{"groups_zero_variance": 4}] * 10))


def test_exploding_gradient() -> None:
    calm = [{"grad_norm": 0.5}] * 5
    wild = {"grad_norm": 501.0}
    assert stopped(history(*calm, wild, wild, wild)) == "exploding_gradient"
    assert stopped(history(*calm, wild, wild, {"grad_norm": 499.0})) is None
    assert stopped(history(*calm[:4], wild, wild, wild)) is None  # too early to know what is usual
    assert stopped(history(*calm, wild, wild, {"grad_norm": None})) is None


def named(first: dict[str, Any], last: dict[str, Any]) -> set[str]:
    return set(guards.warnings(history(*[first] * 5, *[last] * 5)))


LONG = {"tokens_mean": 40.0, "kept_share": 0.25, "by_length": 0.9, "reward_mean": -40.0}
SHORT = {"tokens_mean": 8.0, "kept_share": 0.05, "by_length": None, "reward_mean": -2.0}

CHOSEN = {
    "groups_sampled": 8,
    "facets_sampled": {"tone = dry": 4, "tone = warm": 4},
    "facets_scored": {"tone = dry": 0, "tone = warm": 4},
}


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        ({"tokens_mean": 100.0}, {"tokens_mean": 39.0}, {"length_collapse"}),
        ({"tokens_mean": 100.0}, {"tokens_mean": 41.0}, set()),
        (LONG, SHORT, {"content_loss"}),
        (LONG | {"by_length": 0.2}, SHORT, {"length_collapse"}),
        (LONG, SHORT | {"reward_mean": -50.0}, {"length_collapse"}),
        (LONG, SHORT | {"kept_share": 0.25}, {"length_collapse"}),
        ({"tokens_mean": 10.0}, {"tokens_mean": 26.0}, {"length_growth"}),
        ({"entropy": 2.0}, {"entropy": 0.19}, {"entropy_collapse"}),
        ({"entropy": 2.0}, {"entropy": 0.21}, set()),
        ({"entropy": 1.0}, {"entropy": 2.01}, {"entropy_rise"}),
        ({"entropy": 1.0}, {"entropy": 1.99}, set()),
        ({"entropy": 0.1}, {"entropy": 0.59}, set()),  # less than half a nat more
        ({"entropy": 0.1}, {"entropy": 0.61}, {"entropy_rise"}),
        (CHOSEN, CHOSEN | {"facets_scored": {"tone = dry": 0, "tone = warm": 4}}, {"starved_facet"}),
        (CHOSEN, CHOSEN | {"facets_scored": {"tone = dry": 1, "tone = warm": 3}}, set()),
        (CHOSEN | {"groups_sampled": 99}, CHOSEN, set()),  # so few are scored that chance may do it
        ({}, {"clipped_share": 0.6}, {"many_cut"}),
        ({}, {"groups_zero_variance": 4}, {"little_signal"}),
        ({}, {"groups_zero_variance": 3}, set()),
        ({}, {"ends": {"done": 0.0, "limit": 0.9, "failed": 0.1}}, {"no_end"}),
        ({}, {"ends": {"done": 0.1, "limit": 0.9, "failed": 0.0}}, set()),
    ],
)
def test_collapses_are_named(first: dict[str, Any], last: dict[str, Any], names: set[str]) -> None:
    assert named(first, last) == names


def test_a_collapse_is_named_with_what_was_lost() -> None:
    found = guards.warnings(history(*[LONG] * 5, *[SHORT] * 5))["content_loss"]
    assert found.startswith(
        "Answers fell from 40 to 8 tokens and from 25 % to 5 % of the prompt's content words, while the "
        "reward rose from -40.000 to -2.000."
    )
    unsure = guards.warnings(history(*[LONG | {"by_length": 0.0}] * 5, *[SHORT] * 5))["length_collapse"]
    assert unsure.startswith(
        "Completions shrank from 40 to 8 tokens on average, and from 25 % to 5 % of the prompts' content "
        "words."
    )


def test_no_warning_before_there_is_a_past() -> None:
    assert guards.warnings(history(*[{"tokens_mean": 100.0}] * 5, *[{"tokens_mean": 1.0}] * 4)) == {}


def test_the_top_is_reached_only_with_every_paid_component_full() -> None:
    weights = {"a": 1.0, "b": 0.5, "watched": 0.0}
    full = {"groups_zero_variance": 4, "components": {"a": 1.0, "b": 1.0, "watched": 0.2}}
    low = {"groups_zero_variance": 4, "components": {"a": 1.0, "b": 0.9, "watched": 1.0}}
    spread = {**full, "groups_zero_variance": 3}
    assert guards.at_the_top(history(*[full] * 3), weights)
    assert not guards.at_the_top(history(*[full] * 2), weights)
    few = {**full, "groups": 2, "groups_zero_variance": 2}
    assert not guards.at_the_top(history(*[few] * 5), weights)  # ten groups
    assert guards.at_the_top(history(*[few] * 6), weights)
    assert not guards.at_the_top(history(*[few] * 2, {**few, "groups_zero_variance": 1}, *[few] * 5), weights)
    assert not guards.at_the_top(history(*[{**full, "groups": 40, "groups_zero_variance": 40}]), weights)
    assert not guards.at_the_top(history(full, full, low), weights)
    assert not guards.at_the_top(history(full, spread, full), weights)
    assert not guards.at_the_top(history(*[full] * 3), {**weights, "overlong": 1.0})


def test_a_collapse_across_prompts_is_named() -> None:
    def shares(*values: float | None, openings: Any = None) -> dict[str, str]:
        some = {"Ahoy, matey, the ship": 0.75} if openings is None else openings
        return guards.warnings(history(*[{"distinct_share": v, "openings": some} for v in values]))

    found = shares(*[1.0] * 5, *[0.25] * 5)["same_answers"]
    assert "100 % belonged to one prompt alone, now 25 % do." in found
    assert "They begin with “Ahoy, matey, the ship” (75 %)." in found
    assert shares(*[1.0] * 5, *[0.75] * 5) == {}
    assert shares(*[0.25] * 5, *[0.0] * 5) == {}  # labels: the same few answers from the start
    assert shares(*[None] * 10) == {}  # one prompt a step
    assert shares(*[1.0] * 5, *[0.25] * 5, openings={"7": 0.2, "3": 0.15, "5": 0.1}) == {}  # numbers
