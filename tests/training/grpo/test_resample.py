"""Which prompts take the place of groups without spread, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from make import attempts, group, prompts
from refine_rl.training.grpo.advantages import Scored
from refine_rl.training.grpo.resample import draw, filled_up, waves
from refine_rl.types import Prompt, Score

PROMPTS = prompts(*map(str, range(12)))
FLAT, SPREAD = (Score(value=0.0), Score(value=0.0)), (Score(value=0.0), Score(value=1.0))
GAP = (Score(value=0.0), Score.missing("no reply"))


class World:
    """Two answers a prompt; `scores` says what they get. Remembers what was sampled together."""

    def __init__(self, scores: Callable[[Prompt], tuple[Score, ...]]) -> None:
        self.scores, self.sampled, self.resting = scores, list[list[str]](), set[str]()

    def more(self, prompts: Sequence[Prompt]) -> list[Scored]:
        self.sampled.append([p.id for p in prompts])
        return [(p, attempts(p, 1, 1), self.scores(p)) for p in prompts]

    def fill(self, first: Sequence[Prompt], resample: int, seed: int = 0) -> list[Scored]:
        start = [(p, attempts(p, 1, 1), self.scores(p)) for p in first]

        def others(count: int, wave: int, used: Collection[str]) -> list[Prompt]:
            return draw(PROMPTS, count, seed=seed, step=7, wave=wave, used={*used, *self.resting})

        return filled_up(start, others, self.more, budget=resample)


def test_a_draw_depends_on_its_key_alone_and_never_repeats_a_prompt() -> None:
    def ids(**changes: Any) -> list[str]:
        key = {"seed": 0, "step": 1, "wave": 1, "used": {"p0", "p1"}} | changes
        return [p.id for p in draw(PROMPTS, 4, **key)]

    assert ids() == ids()
    assert len({*ids(), "p0", "p1"}) == 6
    assert len({tuple(ids(**c)) for c in ({}, {"seed": 1}, {"step": 2}, {"wave": 2})}) == 4
    assert len(draw(PROMPTS, 99, seed=0, step=1, wave=1, used={"p3"})) == 11
    assert draw(PROMPTS, 2, seed=0, step=1, wave=1, used={p.id for p in PROMPTS}) == []


def test_nothing_is_sampled_where_all_have_spread_or_none_is_asked_for() -> None:
    world = World(lambda p: SPREAD)
    assert len(world.fill(PROMPTS[:3], resample=5)) == 3
    world = World(lambda p: FLAT)
    assert len(world.fill(PROMPTS[:3], resample=0)) == 3
    assert world.sampled == []


def test_each_group_without_spread_is_replaced_once() -> None:
    world = World(lambda p: FLAT if p.id in ("p0", "p2") else SPREAD)
    found = world.fill(PROMPTS[:3], resample=99)
    assert [len(wave) for wave in world.sampled] == [2]
    assert [p.id for p, _, _ in found] == ["p0", "p1", "p2", *world.sampled[0]]
    assert len({p.id for p, _, _ in found}) == 5


def test_a_replacement_without_spread_is_replaced_too() -> None:
    first = {p.id for p in PROMPTS[:3]}
    world = World(lambda p: FLAT if p.id in first else SPREAD)
    world.scores = lambda p: FLAT if p.id in first or len(world.sampled) == 1 else SPREAD
    found = world.fill(PROMPTS[:3], resample=99)
    assert [len(wave) for wave in world.sampled] == [3, 3]
    assert len(found) == 9


@pytest.mark.parametrize(("budget", "sizes"), [(1, [1]), (3, [3]), (5, [3, 2]), (99, [3, 3, 3])])
def test_it_ends_with_the_budget_and_with_the_prompts(budget: int, sizes: list[int]) -> None:
    world = World(lambda p: FLAT)
    world.fill(PROMPTS[:3], resample=budget)
    assert [len(wave) for wave in world.sampled] == sizes


def test_a_missing_score_is_no_reason_to_sample_more() -> None:
    world = World(lambda p: GAP)
    assert len(world.fill(PROMPTS[:3], resample=9)) == 3


def test_prompts_that_rest_take_no_place() -> None:
    world = World(lambda p: FLAT)
    world.resting = {f"p{n}" for n in range(3, 10)}
    world.fill(PROMPTS[:3], resample=9)
    assert [sorted(wave) for wave in world.sampled] == [["p10", "p11"]]


def test_another_time_it_is_the_same() -> None:
    runs = [World(lambda p: FLAT) for _ in range(3)]
    for world, seed in zip(runs, (0, 0, 1), strict=True):
        world.fill(PROMPTS[:3], resample=7, seed=seed)
    assert runs[0].sampled == runs[1].sampled != runs[2].sampled


@pytest.mark.parametrize("flat", [set(), {"p0"}, {"p0", "p2", "p5", "p7"}, {p.id for p in PROMPTS}])
@pytest.mark.parametrize("budget", [0, 1, 4, 99])
def test_the_waves_can_be_read_off_the_record(flat: set[str], budget: int) -> None:
    world = World(lambda p: FLAT if p.id in flat else SPREAD)
    groups = [group(p, *s, step=7, trajectories=t) for p, t, s in world.fill(PROMPTS[:3], resample=budget)]
    found = [[g.prompt.id for g in wave] for wave in waves(groups, 3)]
    assert found == [["p0", "p1", "p2"], *world.sampled]


def test_waves_shrink_as_places_are_filled() -> None:
    spread = [FLAT, FLAT, SPREAD, FLAT, SPREAD, FLAT, SPREAD]
    groups = [group(p, *s, step=7) for p, s in zip(PROMPTS, spread, strict=False)]
    assert [len(wave) for wave in waves(groups, 3)] == [3, 2, 1, 1]


def test_a_record_of_other_settings_is_read_to_its_end() -> None:
    groups = [group(p, *SPREAD, step=7) for p in PROMPTS[:5]]
    assert [len(wave) for wave in waves(groups, 3)] == [3, 2]
