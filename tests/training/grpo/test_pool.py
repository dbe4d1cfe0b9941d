"""The pool: small examples by hand, and properties of long histories against a slow twin."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make import group, prompts
from refine_rl.randomness import generator
from refine_rl.training.grpo.choice import choose_prompts
from refine_rl.training.grpo.pool import Aside, Chosen, Seen, choose, resting
from refine_rl.types import Prompt, Score


def pool(count: int) -> list[Prompt]:
    return prompts(*map(str, range(count)))


def ids(chosen: Chosen) -> list[str]:
    return [p.id for p in chosen.prompts]


def seen(step: int, prompt_id: str, *values: float) -> Seen:
    return Seen(step=step, prompt_id=prompt_id, values=values)


SPREAD, FLAT = (0.0, 1.0), (1.0, 1.0)


def test_without_evidence_the_first_pass_is_the_plain_one() -> None:
    prompts = pool(10)
    outcomes: list[Seen] = []
    for step in (1, 2, 3):
        plain = [p.id for p in choose_prompts(prompts, step, 3, seed=7)]
        chosen = choose(prompts, step, 3, 7, outcomes)
        assert ids(chosen) == plain
        assert (chosen.aside, chosen.back) == ((), ())
        outcomes += [seen(step, i, *SPREAD) for i in plain]
    # The one that was left over comes first, then those of step 1 in the second pass's order.
    left = {p.id for p in prompts} - {o.prompt_id for o in outcomes}
    second = [prompts[i].id for i in generator(7, "order", 1).permutation(10)]
    of_step_1 = {o.prompt_id for o in outcomes if o.step == 1}
    assert ids(choose(prompts, 4, 3, 7, outcomes)) == [*left, *[i for i in second if i in of_step_1][:2]]


def test_who_rests_is_who_is_not_chosen_before_time() -> None:
    prompts = pool(6)  # 2 a step: a rest is 3 steps
    outcomes = [seen(1, "p0", *FLAT), seen(1, "p1", *SPREAD), seen(2, "gone", *FLAT), seen(9, "p2", *FLAT)]
    assert [resting(prompts, step, 2, outcomes) for step in (1, 2, 4, 5)] == [set(), {"p0"}, {"p0"}, set()]
    assert resting(prompts, 2, 2, outcomes, known=0) == set()


def test_graded_steps_are_a_spread() -> None:
    scores = tuple(Score(value=0.0, breakdown={"right_steps": x}) for x in (0.5, 0.25))
    prompt = pool(1)[0]
    told = group(prompt, *scores, advantages=(0.1, -0.1))
    same = group(prompt, *scores[:1] * 2, advantages=(0.0, 0.0))
    assert (Seen.of(told).flat, Seen.of(same).flat) == (False, True)
    assert Seen.of(same).values == (0.0, 0.0)  # "never solved", as without grading


def test_rests_double_up_to_eight_passes_and_spread_ends_them() -> None:
    prompts = pool(6)  # 2 a step: a rest is one pass, 3 steps

    def resting(outcomes: list[Seen], step: int) -> int | None:
        """The step at which p0 returns, as it is told when it is set aside at `step`."""
        return {a.prompt_id: a.returns for a in choose(prompts, step, 2, 0, outcomes).aside}.get("p0")

    at, outcomes = 1, []
    for steps in (3, 6, 12, 24, 24):
        outcomes.append(seen(at, "p0", 1.0, 1.0))
        assert resting(outcomes, at + 1) == at + steps + 1
        assert choose(prompts, at + steps, 2, 0, outcomes).back == ()
        at += steps + 1
        assert choose(prompts, at, 2, 0, outcomes).back == ("p0",)
    outcomes.append(seen(at, "p0", 0.0, 1.0))
    outcomes.append(seen(at + 4, "p0", 1.0, 1.0))
    assert resting(outcomes, at + 5) == at + 4 + 3 + 1


def test_a_rest_is_at_least_two_steps() -> None:
    chosen = choose(pool(3), 2, 3, 0, [seen(1, "p1", 0.0, 0.0)])
    assert chosen.aside == (
        Aside(prompt_id="p1", step=1, why="both answers got 0.000 (never solved)", returns=4),
    )


def test_who_rests_is_not_chosen_and_comes_back_at_its_step() -> None:
    prompts = pool(4)
    outcomes = [seen(1, "p0", 0.5, 0.5, 0.5), seen(1, "p1", *SPREAD)]
    chosen = choose(prompts, 2, 2, 0, outcomes)
    assert set(ids(chosen)) == {"p2", "p3"}
    assert chosen.aside == (
        Aside(prompt_id="p0", step=1, why="all 3 answers got 0.500 (no spread)", returns=4),
    )
    outcomes += [seen(2, "p2", *SPREAD), seen(2, "p3", *SPREAD)]
    third = choose(prompts, 3, 2, 0, outcomes)
    assert ids(third)[0] == "p1"
    assert set(ids(third)[1:]) < {"p2", "p3"}
    assert (third.aside, third.back) == ((), ())
    outcomes += [seen(3, i, *SPREAD) for i in ids(third)]
    fourth = choose(prompts, 4, 2, 0, outcomes)
    assert ids(fourth)[0] == "p0"
    assert fourth.back == ("p0",)


def test_those_that_return_soonest_fill_up_and_spread_brings_them_back_at_once() -> None:
    prompts = pool(4)  # 3 a step: a rest is 2 steps
    outcomes = [seen(1, "p1", *FLAT), seen(2, "p1", *FLAT), seen(3, "p2", *FLAT), seen(3, "p3", *FLAT)]
    chosen = choose(prompts, 4, 3, 0, outcomes)
    assert ids(chosen)[0] == "p0"
    assert set(ids(chosen)[1:]) == {"p2", "p3"}  # until 6; p1, flat twice, until 7
    after = choose(prompts, 5, 3, 0, [*outcomes, seen(4, "p2", *SPREAD), seen(4, "p3", *FLAT)])
    assert after.back == ("p2",)
    assert [(a.prompt_id, a.returns) for a in after.aside] == [("p3", 9)]


@pytest.mark.parametrize(
    ("values", "top", "why"),
    [
        ((1.0,) * 8, 1.0, "all 8 answers got 1.000 (always solved)"),
        ((0.0,) * 4, 1.0, "all 4 answers got 0.000 (never solved)"),
        ((-0.5,) * 4, 1.0, "all 4 answers got -0.500 (never solved)"),
        ((1.0,) * 3, 2.0, "all 3 answers got 1.000 (no spread)"),
        ((2.0,) * 3, 2.0, "all 3 answers got 2.000 (always solved)"),
        ((1.0,) * 3, None, "all 3 answers got 1.000 (no spread)"),
        ((0.0,) * 3, None, "all 3 answers got 0.000 (no spread)"),
    ],
)
def test_reasons(values: tuple[float, ...], top: float | None, why: str) -> None:
    (aside,) = choose(pool(4), 2, 1, 0, [seen(1, "p0", *values)], top=top).aside
    assert aside.why == why


@pytest.mark.parametrize("values", [(), (1.0,)])
def test_missing_scores_are_a_turn_but_no_evidence(values: tuple[float, ...]) -> None:
    prompts = pool(4)
    outcomes = [seen(1, "p0", *FLAT), seen(4, "p0", *values)]
    chosen = choose(prompts, 5, 2, 0, outcomes)
    assert chosen.aside == ()
    assert "p0" not in ids(chosen)  # its turn is over: the others were never used
    assert choose(prompts, 6, 2, 0, [*outcomes, seen(5, "p0", *FLAT)]).aside[0].returns == 10  # n = 2


def test_a_probe_is_step_0_and_no_turn() -> None:
    prompts = pool(4)
    probe = [seen(0, "p0", *FLAT), seen(0, "p1", *SPREAD), seen(0, "p2", *SPREAD), seen(0, "p3", *SPREAD)]
    first = choose(prompts, 1, 2, 0, probe)
    assert first.aside == (
        Aside(prompt_id="p0", step=0, why="both answers got 1.000 (always solved)", returns=3),
    )
    order = [prompts[i].id for i in generator(0, "order", 0).permutation(4)]
    assert ids(first) == [i for i in order if i != "p0"][:2]
    assert choose(prompts, 2, 2, 0, probe).aside == ()


def test_rewards_count_only_once_they_are_known() -> None:
    prompts = pool(4)
    outcomes = [seen(1, "p0", *FLAT), seen(2, "p1", *FLAT)]
    waiting = choose(prompts, 2, 2, 0, outcomes, known=0, told=0)
    assert waiting == choose(prompts, 2, 2, 0, [seen(1, "p0")])
    assert waiting.aside == ()
    third = choose(prompts, 3, 2, 0, outcomes, known=1, told=0)
    assert [a.prompt_id for a in third.aside] == ["p0"]
    assert set(ids(third)) == {"p2", "p3"}
    jump = choose(prompts, 4, 2, 0, outcomes, known=3, told=1)
    assert ([a.prompt_id for a in jump.aside], jump.back) == (["p1"], ("p0",))
    assert choose(prompts, 5, 2, 0, outcomes, known=3, told=3).aside == ()


def test_too_small_a_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts a step from a pool of 2"):
        choose(pool(2), 1, 3, 0, [])


def test_from_a_group() -> None:
    made = group(pool(1)[0], 0.5, None, 0.25, step=3, advantages=(1.0, None, -1.0))
    assert Seen.of(made) == seen(3, "p0", 0.5, 0.25)


# -- properties -----------------------------------------------------------------------------------


def slow(prompts: Sequence[Prompt], step: int, per_step: int, outcomes: Sequence[Seen]) -> dict[str, int]:
    """Who rests at `step`, told prompt by prompt and step by step: id -> returns."""
    rest = max(2, (len(prompts) + per_step - 1) // per_step)
    found = {}
    for prompt in prompts:
        n, until = 0, 0
        for s in range(step):
            for o in outcomes:
                if (o.step, o.prompt_id) == (s, prompt.id) and len(o.values) >= 2:
                    n = n + 1 if len(set(o.values)) == 1 else 0
                    until = s + 1 + rest * [0, 1, 2, 4, 8, 8, 8, 8, 8, 8, 8][min(n, 10)] if n else 0
        if until > step:
            found[prompt.id] = until
    return found


KINDS = st.sampled_from([FLAT, (0.0, 0.0, 0.0), SPREAD, (0.25, 0.5), (1.0, 0.0, 1.0), (), (1.0,)])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Prompt], int, int, list[Chosen], list[Seen]]:
    """A run of a pool: what it chose at each step, and what came of it."""
    count = draw(st.integers(1, 12))
    per_step, seed = draw(st.integers(1, count)), draw(st.integers(0, 3))
    prompts = pool(count)
    probe = draw(st.lists(KINDS, min_size=count, max_size=count)) if draw(st.booleans()) else []
    outcomes = [seen(0, p.id, *v) for p, v in zip(prompts, probe, strict=False)]
    chosen = []
    for step in range(1, draw(st.integers(1, 25)) + 1):
        chosen.append(choose(prompts, step, per_step, seed, outcomes))
        outcomes += [seen(step, i, *draw(KINDS)) for i in ids(chosen[-1])]
    return prompts, per_step, seed, chosen, outcomes


@settings(max_examples=120, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_properties(
    history: tuple[list[Prompt], int, int, list[Chosen], list[Seen]],
    shuffle: object,
) -> None:
    prompts, per_step, seed, chosen, outcomes = history
    shuffled = list(outcomes)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    told: dict[str, int] = {}
    for step, found in enumerate(chosen, 1):
        taken = ids(found)
        assert len(set(taken)) == per_step
        # From the whole record, in any order: the same as step by step.
        assert choose(prompts, step, per_step, seed, shuffled) == found
        resting = slow(prompts, step, per_step, outcomes)
        used = {o.prompt_id: o.step for o in outcomes if o.step < step}
        eligible = [p.id for p in prompts if p.id not in resting]
        if len(eligible) >= per_step:
            assert not set(taken) & set(resting)
            left = [used.get(i, 0) for i in eligible if i not in taken]
            assert not left or max(used.get(i, 0) for i in taken) <= min(left)  # longest unused first
        else:
            assert set(eligible) < set(taken)
            soonest = sorted(resting.values())[: per_step - len(eligible)]
            assert sorted(resting[i] for i in taken if i in resting) == soonest
        # The record of who leaves and who comes back tells who rests.
        told.update({a.prompt_id: a.returns for a in found.aside})
        for prompt_id in found.back:
            del told[prompt_id]
        assert told == resting


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.data())
def test_every_prompt_gets_its_turn_before_any_comes_again(count: int, data: st.DataObject) -> None:
    prompts, per_step = pool(count), data.draw(st.integers(1, count))
    outcomes: list[Seen] = []
    turns = dict.fromkeys((p.id for p in prompts), 0)
    for step in range(1, 15):
        for i in ids(choose(prompts, step, per_step, 1, outcomes)):
            turns[i] += 1
            outcomes.append(seen(step, i, *SPREAD))
        assert max(turns.values()) - min(turns.values()) <= 1
