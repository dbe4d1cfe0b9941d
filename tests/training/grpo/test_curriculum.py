"""The curriculum: promises and draws by hand, a slow twin, and a learner whose chances are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make import prompts
from refine_rl.randomness import generator
from refine_rl.training.grpo.choice import Choice, Schedule, choose_prompts
from refine_rl.training.grpo.curriculum import Curriculum
from refine_rl.training.grpo.pool import Chosen, Seen
from refine_rl.training.grpo.promise import Memories, promise, unseen_weight
from refine_rl.types import Prompt

RIGHT, WRONG, HALF = (1.0,) * 8, (0.0,) * 8, (0.0,) * 4 + (1.0,) * 4


def pool(count: int, kinds: int = 0) -> list[Prompt]:
    """Without facets, or of so many kinds in turn."""
    made = prompts(*map(str, range(count)))
    return [replace(p, facets={"kind": str(n % kinds)}) if kinds else p for n, p in enumerate(made)]


def seen(step: int, prompt_id: str, *values: float) -> Seen:
    return Seen(step=step, prompt_id=prompt_id, values=values)


def curriculum(prompts: Sequence[Prompt], per_step: int = 2, **changes: object) -> Curriculum:
    return Curriculum(
        **{"prompts": prompts, "per_step": per_step, "size": 8, "seed": 0, "top": 1.0} | changes
    )  # type: ignore[arg-type]


def ids(chosen: Chosen) -> list[str]:
    return [p.id for p in chosen.prompts]


# -- promises ------------------------------------------------------------------------------------


def test_with_right_and_wrong_a_promise_is_that_of_a_beta_binomial() -> None:
    # Of Beta(3, 2), two answers: both right with 3/5 * 4/6, both wrong with 2/5 * 3/6.
    assert promise([3.0, 2.0], 0.0, 2) == pytest.approx(1 - 12 / 30 - 6 / 30)
    # A third value, of which nothing was seen: both the same new one with c/(n+c) * 1/(n+c+1).
    assert promise([1.0], 1.0, 2) == pytest.approx(1 - 1 / 2 * 2 / 3 - 1 / 2 * 1 / 3)
    assert promise([], 1.0, 3) == pytest.approx(1 - 1 / 2 * 2 / 3)


@given(st.lists(st.floats(0.01, 20), max_size=4), st.floats(0.01, 20), st.integers(2, 5))
def test_a_promise_is_the_chance_over_all_groups(weights: list[float], unseen: float, size: int) -> None:
    """Every sequence of draws from the urn, told one by one."""

    def flat(value: int | None, drawn: int) -> float:
        """The chance that the rest of the group is as its first answer."""
        if drawn == size:
            return 1.0
        total = math.fsum(weights) + unseen + drawn
        if drawn == 0:
            chances = [*enumerate(weights), (None, unseen)]
            return sum(w / total * flat(v, 1) for v, w in chances)
        return ((0.0 if value is None else weights[value]) + drawn) / total * flat(value, drawn + 1)

    assert promise(weights, unseen, size) == pytest.approx(1 - flat(None, 0), abs=1e-9)


@given(st.floats(0.02, 0.98), st.integers(2, 64))
def test_without_evidence_a_prompt_promises_what_it_is_told_to(promised: float, size: int) -> None:
    assert promise([], unseen_weight(promised, size), size) == pytest.approx(promised, abs=1e-9)


def test_promises_after_one_group() -> None:
    """Of two answers each: then a promise of p without evidence is c = p / (1 - p)."""
    found = {}
    for name, values in {"right": (1.0, 1.0), "half": (0.0, 1.0)}.items():
        memories = Memories(size=2)
        memories.add(seen(1, "p0", *values))
        found[name], other = memories.promises(pool(2), 2)
        # One prompt that did not differ, or one that did; each count starts from 1.
        assert other == pytest.approx(1 / 3 if name == "right" else 2 / 3)
    # c = 1/2: two more as those two, 2 / 2.5 * 3 / 3.5, or two at another value, 0.5 / 2.5 * 1 / 3.5.
    assert found["right"] == pytest.approx(1 - 24 / 35 - 2 / 35)
    # c = 2: 1/4 * 2/5 for either value, 2/4 * 1/5 for another.
    assert found["half"] == pytest.approx(1 - 1 / 10 - 1 / 10 - 1 / 10)


def test_what_was_seen_is_forgotten() -> None:
    memories = Memories(size=8)
    memories.add(seen(1, "p0", *WRONG))
    first, *later = (memories.promises(pool(1), step)[0] for step in range(2, 120))
    assert [first, *later] == sorted([first, *later])
    assert first < 0.12
    assert later[-1] == pytest.approx(0.5, abs=0.01)
    # After 8 steps it holds with a chance of a half, also for those like it: 1 differed, 1.5 did not.
    alone = promise([8.0], unseen_weight(1 / 2.5, 8), 8)
    assert later[7] == pytest.approx((alone + 1 / 2.5) / 2) == memories.promises(pool(1), 10)[0]


def test_what_was_trained_on_counts_less() -> None:
    memories = Memories(size=8)
    memories.add(seen(1, "p0", *WRONG))
    memories.add(seen(9, "p0", *RIGHT))  # 8 steps later: a half is left, and of that a half is kept
    assert memories.of["p0"].weights == {0.0: 2.0, 1.0: 8.0}
    memories.add(seen(9 + 8 * 9, "p0", *HALF))
    assert memories.of["p0"].weights == {0.0: 4.0, 1.0: 4.0}  # the rest weighs too little to be kept


def test_what_rounding_leaves_of_a_reward_is_the_same_reward() -> None:
    memories = Memories(size=2)
    memories.add(seen(1, "p0", 0.3, 0.1 + 0.2))
    assert memories.of["p0"].weights == {0.3: 2.0}


def test_rewards_that_always_differ_promise_alike() -> None:
    """As those of a fine reward: then every prompt comes about as often."""
    memories, rng = Memories(size=8), np.random.default_rng(0)
    for n in range(40):
        memories.add(seen(1 + n // 4, f"p{n}", *rng.random(8)))
    assert min(memories.promises(pool(40), 12)) > 0.95


@pytest.mark.parametrize("values", [(), (1.0,)])
def test_without_two_scores_a_group_says_nothing(values: tuple[float, ...]) -> None:
    memories = Memories(size=8)
    memories.add(seen(1, "p0", *values))
    assert memories.of == {}


def test_prompts_that_were_never_tried_promise_what_those_of_their_facets_did() -> None:
    prompts, memories = pool(20, kinds=2), Memories(size=8)
    for n in range(8):
        memories.add(seen(1, f"p{n}", *(HALF if n % 2 else WRONG)))
    even, odd = memories.promises(prompts, 2)[18:]
    # 4 differed and 4 did not, so the odds are 5/5; of the odd ones, of two values, 4 and 0: times
    # (4 + 1/4) / (4 + 2/4) over (0 + 1/4) / (4 + 2/4).
    assert odd == pytest.approx(17 / 18)
    assert even == pytest.approx(1 / 18)


def test_a_probe_of_few_answers_says_less() -> None:
    memories = Memories(size=8)
    for n in range(10):
        memories.add(seen(0, f"p{n}", 0.0, 0.0))
    *_, new = memories.promises(pool(11), 1)
    assert new == pytest.approx(1 / (2 + 10 / 7))  # each says a seventh of what a whole group would
    for n in range(10):
        memories.add(seen(1, f"p{n}", *WRONG))
    assert memories.promises(pool(11), 2)[-1] == pytest.approx(1 / 12)


# -- draws ---------------------------------------------------------------------------------------


def test_draws_are_in_proportion_to_a_power_of_the_promises_and_less_after_turns() -> None:
    prompts = pool(3)
    outcomes = [seen(1, "p0", *HALF), seen(1, "p1", *WRONG)]
    memories = Memories(size=8)
    for outcome in outcomes:
        memories.add(outcome)
    powers = [p**4 for p in memories.promises(prompts, 18)]
    # Step 18 is drawn 16 steps after the turns of step 1: they count a half, so 1/2 in the logarithm.
    weights = [powers[0] / math.e**0.5, powers[1] / math.e**0.5, powers[2]]
    drawn = Counter(
        ids(curriculum(prompts, 1, seed=seed).of_step(18, outcomes, 17))[0] for seed in range(3000)
    )
    for n, weight in enumerate(weights):
        expected = weight / sum(weights)
        assert drawn[f"p{n}"] / 3000 == pytest.approx(expected, abs=4 * math.sqrt(expected / 3000) + 1e-3)


def test_among_prompts_that_promise_alike_those_come_that_came_least() -> None:
    """In two passes of a pool that always differs most prompts had their turn, and none many."""
    prompts, outcomes, draws = pool(32), list[Seen](), curriculum(pool(32), 4)
    for step in range(1, 17):
        outcomes += [seen(step, i, *HALF) for i in ids(draws.of_step(step, outcomes, step - 1))]
    turns = Counter(o.prompt_id for o in outcomes)
    assert max(turns.values()) <= 4
    assert len(turns) >= len(prompts) * 0.8


def test_one_prompt_in_eight_comes_in_turn_whatever_it_promises() -> None:
    """In 64 steps of two, 16 prompts: the pool once, though all but two were never solved."""
    prompts = pool(16)
    outcomes = [seen(1, p.id, *(HALF if p.id in ("p0", "p1") else WRONG)) for p in prompts]
    plain = [ids(curriculum(prompts).of_step(step, outcomes, 1))[0] for step in range(4, 65, 4)]
    assert sorted(plain) == sorted(p.id for p in prompts)
    other = [ids(curriculum(prompts, seed=1).of_step(step, outcomes, 1))[0] for step in range(4, 65, 4)]
    assert sorted(other) == sorted(plain) != other != plain
    just = [*outcomes, seen(3, plain[0], *WRONG)]  # it has had its turn
    assert plain[0] not in ids(curriculum(prompts).of_step(4, just, 3))


def test_a_pool_smaller_than_what_comes_in_turn_is_no_trouble() -> None:
    assert sorted(ids(curriculum(pool(16), 16).of_step(1, [], 0))) == sorted(p.id for p in pool(16))


def test_draws_follow_from_seed_and_step() -> None:
    prompts = pool(30)
    first = [tuple(ids(curriculum(prompts, 4, seed=s).of_step(t, [], 0))) for s in (0, 1) for t in (1, 2)]
    again = [tuple(ids(curriculum(prompts, 4, seed=s).of_step(t, [], 0))) for s in (0, 1) for t in (1, 2)]
    assert first == again
    assert len(set(first)) == 4
    assert all(len(set(one)) == 4 for one in first)


def test_no_prompt_comes_twice_running_where_there_are_others() -> None:
    prompts = pool(5)
    outcomes = [seen(1, "p0", *HALF), seen(1, "p1", *HALF)]
    for seed in range(20):
        chosen = ids(curriculum(prompts, 3, seed=seed).of_step(2, outcomes, 1))
        assert set(chosen) == {"p2", "p3", "p4"}
        under_way = curriculum(prompts, 3, seed=seed).of_step(3, outcomes, 1, {"p2", "p3"})
        assert set(ids(under_way)) == {"p0", "p1", "p4"}
        assert len(set(ids(curriculum(prompts, 4, seed=seed).of_step(2, outcomes, 1)))) == 4


def test_rewards_count_only_once_they_are_known() -> None:
    prompts, outcomes = pool(6), [seen(1, "p0", *HALF), seen(2, "p1", *WRONG)]
    chosen = curriculum(prompts).of_step(3, outcomes, 1)
    assert chosen.drawn is not None
    assert chosen.drawn.pool == {"promising": 1, "new": 5}
    later = curriculum(prompts).of_step(3, outcomes, 2)
    assert later.drawn is not None
    assert later.drawn.pool == {"promising": 1, "hard": 1, "new": 4}


def test_what_is_said_of_the_pool() -> None:
    outcomes = [seen(1, "p0", *HALF), seen(1, "p1", *WRONG), seen(1, "p2", *RIGHT), seen(1, "p3", 0.0)]
    drawn = curriculum(pool(5)).of_step(2, outcomes, 1).drawn
    assert drawn is not None
    assert drawn.pool == {"promising": 1, "hard": 1, "easy": 1, "new": 2}
    assert set(drawn.promised) == set(ids(curriculum(pool(5)).of_step(2, outcomes, 1)))
    without = curriculum(pool(5), top=None).of_step(2, outcomes, 1).drawn
    assert without is not None
    assert without.pool == {"promising": 1, "alike": 2, "new": 2}


def test_further_waves_are_drawn_as_well_and_never_what_is_used() -> None:
    prompts = pool(12)
    outcomes = [seen(1, f"p{n}", *(HALF if n < 4 else WRONG)) for n in range(12)]
    choice = Choice(prompts=prompts, per_step=2, seed=0, schedule=Schedule(), curriculum=curriculum(prompts))
    first = choice.of_step(3, outcomes)
    more = choice.others(3, outcomes, 2, 1, {p.id for p in first.prompts})
    assert {p.id for p in (*first.prompts, *more)} == {"p0", "p1", "p2", "p3"}
    assert choice.others(3, outcomes, 5, 1, {p.id for p in prompts}) == []
    assert len(choice.others(3, outcomes, 99, 1, {"p0"})) == 11


def test_too_small_a_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts a step from a pool of 2"):
        curriculum(pool(2), 3)


KINDS = st.sampled_from([RIGHT, WRONG, HALF, (0.25, 0.5, 0.5), (), (1.0,)])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_resumed_run_draws_what_the_unbroken_one_would_have(data: st.DataObject) -> None:
    """Also with a step ahead: one object asked step by step, and a new one for each step."""
    count = data.draw(st.integers(1, 12))
    per_step, ahead = data.draw(st.integers(1, count)), data.draw(st.booleans())
    schedule = Schedule(ahead=ahead, checkpoint_every=data.draw(st.integers(1, 4)))
    prompts = pool(count, kinds=data.draw(st.integers(0, 3)))
    kept = curriculum(prompts, per_step)
    outcomes: list[Seen] = []
    for step in range(1, data.draw(st.integers(1, 20)) + 1):
        known = schedule.sampled_after(step)
        found = kept.of_step(step, outcomes, known)
        assert found == curriculum(prompts, per_step).of_step(step, outcomes, known)
        assert len(set(ids(found))) == per_step
        before = {o.prompt_id for o in outcomes if o.step == step - 1}
        assert len(before & set(ids(found))) == max(0, per_step - (count - len(before)))
        outcomes += [seen(step, i, *data.draw(KINDS)) for i in ids(found)]


# -- a learner whose chances are known -----------------------------------------------------------


class Learner:
    """Right with a chance that rises with ability and falls with difficulty (a logistic curve). Each group
    with spread makes it abler, and its own prompt easier beside."""

    def __init__(self, prompts: Sequence[Prompt], kinds: int, seed: int) -> None:
        self.rng, self.ability, self.kinds = generator(seed, "learner"), 0.0, kinds
        inside = self.rng.random(len(prompts))
        self.hard = {
            p.id: -3 + 8 * (int(p.facets.get("kind", n % kinds)) + x) / kinds
            for n, (p, x) in enumerate(zip(prompts, inside, strict=True))
        }
        self.known: Counter[str] = Counter()

    def chance(self, prompt_id: str) -> float:
        return 1 / (1 + math.exp(1.5 * (self.hard[prompt_id] - self.ability) - 0.08 * self.known[prompt_id]))

    def answer(self, prompt_id: str) -> tuple[float, ...]:
        return tuple((self.rng.random(8) < self.chance(prompt_id)).astype(float).tolist())

    def learn(self, groups: Sequence[Seen]) -> None:
        for group in groups:
            self.ability += 0.0 if group.flat else 0.008
            self.known[group.prompt_id] += not group.flat


Pick = Callable[[int, list[Seen]], Sequence[Prompt]]


def trained(pick: Pick, learner: Learner, steps: int) -> tuple[float, float]:
    """The share of groups without spread, and the ability in the end."""
    outcomes: list[Seen] = []
    for step in range(1, steps + 1):
        groups = [seen(step, p.id, *learner.answer(p.id)) for p in pick(step, outcomes)]
        learner.learn(groups)
        outcomes += groups
    return sum(bool(o.flat) for o in outcomes) / len(outcomes), learner.ability


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("told", "most", "more"), [(True, 0.27, 1.5), (False, 0.5, 1.1)])
def test_a_curriculum_wastes_less_and_learns_more(seed: int, told: bool, most: float, more: float) -> None:
    """Of 256 prompts with 60 steps of 8; with the facet that tells how hard they are, and without."""
    prompts = pool(256, kinds=8 if told else 0)
    draws = curriculum(prompts, 8, seed=seed)
    by_turns, by_promise = (
        trained(pick, Learner(prompts, 8, seed), 60)
        for pick in (
            lambda step, outcomes: choose_prompts(prompts, step, 8, seed),
            lambda step, outcomes: draws.of_step(step, outcomes, step - 1).prompts,
        )
    )
    assert by_turns[0] > 0.5
    assert by_promise[0] < most
    assert by_promise[1] > more * by_turns[1]


def test_facets_that_say_nothing_of_difficulty_do_no_harm() -> None:
    """Four beside the one that does; and a facet that has another value for each prompt."""
    rng, plain, told = generator(0, "facets"), pool(256), pool(256, kinds=8)
    noisy = [
        replace(p, facets={**p.facets, **{f"f{k}": str(rng.integers(4)) for k in range(4)}}) for p in told
    ]
    unique = [replace(p, facets={"name": p.id}) for p in plain]

    def wasted(prompts: Sequence[Prompt]) -> float:
        draws = curriculum(prompts, 8)
        learner = Learner(told, 8, 0)
        return trained(lambda step, seen: draws.of_step(step, seen, step - 1).prompts, learner, 60)[0]

    assert wasted(noisy) < wasted(told) + 0.05
    assert wasted(unique) < wasted(plain) + 0.05


@pytest.mark.parametrize("values", [RIGHT, WRONG])
def test_a_pool_that_is_all_solved_or_all_hopeless_is_gone_through(values: tuple[float, ...]) -> None:
    """Those longest unseen first by the most part, so that what has changed is found."""
    prompts, outcomes, draws = pool(24), list[Seen](), curriculum(pool(24), 4)
    for step in range(1, 25):
        outcomes += [seen(step, i, *values) for i in ids(draws.of_step(step, outcomes, step - 1))]
    turns = Counter(o.prompt_id for o in outcomes)
    assert len(turns) == len(prompts)
    assert max(turns.values()) <= 8  # 4 is the mean
    changed = min(turns)  # now one of them has spread: it is found, and then comes every other step
    for step in range(25, 65):
        found = ids(draws.of_step(step, outcomes, step - 1))
        outcomes += [seen(step, i, *(HALF if i == changed else values)) for i in found]
    times = [o.step for o in outcomes if o.prompt_id == changed and o.step > 24]
    assert times[0] < 45
    assert len([t for t in times if t > 45]) >= 7


def test_a_step_costs_what_the_pool_costs(is_linear: Callable[..., bool]) -> None:
    """Not what the whole record does: groups are taken in once."""

    def work(groups: int) -> None:
        draws, outcomes = curriculum(pool(20), 4), list[Seen]()
        for step in range(1, groups // 4 + 1):
            outcomes += [seen(step, i, *HALF) for i in ids(draws.of_step(step, outcomes, step - 1))]

    assert is_linear(work, 400)
