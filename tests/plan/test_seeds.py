"""The plan of several seeds: the later runs have prompts and the base model's answers of the first."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refine_rl.evaluate.probes import MOST_TOKENS, instructions, neutral
from refine_rl.plan import Calls, Counts, calls, make_plan, pace
from refine_rl.plan.machine import Rates
from refine_rl.plan.pace import Fitted, Pace
from refine_rl.plan.seeds import calls_of_all
from refine_rl.plan.service import passed
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from sizes import RATES, SIZE

COUNTS = Counts(train=40, validation=5, held_out=7, chars=400)
PRICES = {"prices": {"w": {"input": 1.0, "output": 1.0}, "j": {"input": 1.0, "output": 1.0}}}
WRITING = {"facets", "prompts", "check of the prompts", "system message"}
GRPO = {"steps": 20, "prompts_per_step": 3, "validate_every": 10}


def make(**sections: Any) -> Settings:
    return settings_from_dict({"task": "Be brief and kind.", "model": {"name": "tiny"}, **sections}, Path())


def judged(kind: str, **evaluate: Any) -> Settings:
    return make(
        reward={"judges": ["ollama/j"]},
        judge={"kind": kind, "anchors": False},
        writer={"model": "ollama/w", "batch": 10},
        endpoints={"ollama": PRICES},
        evaluate={"samples": 3, **evaluate},
        grpo=GRPO,
        rollout={"group_size": 4},
    )


def highs(found: list[Calls]) -> dict[str, int]:
    return {c.stage: c.high for c in found}


def test_prompts_are_written_once_and_base_is_judged_once() -> None:
    """Answers one by one: 7 held-out prompts x 4 answers of base and of three tuned models."""
    written = replace(COUNTS, written=True)
    one, three = (highs(calls_of_all(judged("absolute"), written, n)) for n in (1, 3))
    assert one == highs(calls(judged("absolute"), written))
    assert {stage for stage in one if three[stage] == one[stage]} == {*WRITING, "first look"}
    assert one["held-out comparison"] == 2 * 7 * 4
    assert three["held-out comparison"] == 4 * 7 * 4
    rest = one.keys() - WRITING - {"held-out comparison", "first look"}
    assert {"training", "validation"} <= rest
    assert {stage: three[stage] for stage in rest} == {stage: 3 * one[stage] for stage in rest}
    # With rivals, which each run makes: base's 4 of 4 x 3 - 1 answers to a prompt are known to the later two.
    both = judged("absolute", rivals=["best_of_n"])
    assert highs(calls_of_all(both, written, 3))["held-out comparison"] == 7 * (11 + 7 + 7)


def test_a_ruler_sees_base_beside_each_tuned_model() -> None:
    three = highs(calls_of_all(judged("ruler"), COUNTS, 3))
    one = highs(calls(judged("ruler"), COUNTS))
    once = {*WRITING, "first look"}
    assert three == {stage: n if stage in once else 3 * n for stage, n in one.items()}


def test_what_was_asked_before_base_answered_is_not_asked_again() -> None:
    """The first looks, a rubric to be written, and the bad answers before the first step."""
    settings = make(
        reward={"judges": ["e/j"], "rubric": "write", "quiz": {"writer": "e/w"}},
        judge={"anchor_prompts": 4},
        evaluate={"judge": "e/k"},
        writer={"model": "e/w"},
        prompts={"source": "recipe:style"},
        grpo=GRPO,
    )
    by = {(c.purpose, c.stage): c.high for c in calls(settings, COUNTS)}
    all_ = {(c.purpose, c.stage): c.high for c in calls_of_all(settings, COUNTS, 3)}
    again = {key: (all_[key] - n) / 2 for key, n in by.items()}
    assert {key for key, n in again.items() if n == 0} == {
        ("anchor", "first look"),
        ("quiz", "first look"),
        ("rubric", "rubric"),
    }
    assert by["anchor", "anchors"] == 3 * 4  # before the first step, and at steps 10 and 20
    assert again["anchor", "anchors"] == 2 * 4


def test_time_and_money_and_disk_are_of_all_and_memory_is_of_one() -> None:
    settings = judged("absolute", probes=True)
    one, two, three = (make_plan(settings, COUNTS, rates=RATES, seeds=n) for n in (1, 2, 3))
    assert (one.seeds, three.seeds) == (1, 3)
    for first, second, third in (
        (one.seconds.total, two.seconds.total, three.seconds.total),
        (one.seconds.machine, two.seconds.machine, three.seconds.machine),
        (one.seconds.judges, two.seconds.judges, three.seconds.judges),
        ((one.cost.low, one.cost.high), (two.cost.low, two.cost.high), (three.cost.low, three.cost.high)),
    ):
        for a, b, c in zip(first or (), second or (), third or (), strict=True):
            assert a < b < 2 * a  # base is not asked again
            assert c == pytest.approx(a + 2 * (b - a))
    assert one.disk is not None
    assert three.disk == 3 * one.disk
    assert (three.memory, three.seconds.training) == (one.memory, one.seconds.training)
    assert one.seconds.machine
    assert two.seconds.machine
    assert one.size
    both = Pace(settings=settings, size=one.size, rates=RATES, prompt=COUNTS.read)
    again = one.seconds.machine[1] - (two.seconds.machine[1] - one.seconds.machine[1])
    answered = both.sampling(7, 3) + both.sampling(7, 1)
    assert again == pytest.approx(answered + both.probes())
    notes = "\n".join(three.notes)
    assert "All figures but the memory are of 3 runs" in notes
    assert "of 3 runs" not in "\n".join(one.notes)
    assert repr(three).startswith("Plan of 3 seeds\n")


def test_the_caps_are_of_all_in_dollars_and_of_each_in_hours() -> None:
    one = make_plan(judged("absolute"), COUNTS, rates=RATES)
    assert one.seconds.training is not None
    hours = 1.1 * one.seconds.training[1] / 3600
    tight = judged("absolute").model_copy(
        update={"budget": make(budget={"dollars": 1.5 * one.cost.high, "hours": hours}).budget}
    )
    assert make_plan(tight, COUNTS, rates=RATES).over == ()
    found = make_plan(tight, COUNTS, rates=RATES, seeds=3)
    (over,) = found.over
    assert "budget.dollars" in over
    assert "budget.dollars caps all of them together and budget.hours caps each." in found.notes


def test_a_service_is_not_asked_for_base_again() -> None:
    settings = make(
        engine={"kind": "tinker", "model": "m"}, reward={"rules": [{"rule": "words", "max": 9}]}, grpo=GRPO
    )
    one, three = (passed(settings, COUNTS, None, seeds=n) for n in (1, 3))
    for first, all_ in zip(one, three, strict=True):
        times = 2 if first.stage == "held-out comparison" else 3  # 2 sides, and one for each seed more
        assert (all_.stage, all_.prefilled[1], all_.sampled[0]) == (
            first.stage,
            times * first.prefilled[1],
            times * first.sampled[0],
        )


def test_the_seconds_of_the_probes() -> None:
    """20 instructions answered twice, each in 1 + 64 passes through 4 layers; the texts in micro-batches."""
    free = Rates(device="cpu", dtype="float32", train=math.inf, decode=math.inf, bytes=math.inf)
    fitted = Fitted(launch=1.0, started=3.0, slowdown=1.0, traffic=1.0)
    settings = make(reward={"rules": [{"rule": "words", "max": 9}]}, evaluate={"probes": True}, grpo=GRPO)
    found = Pace(settings=settings, size=SIZE, rates=free, prompt=20, given=fitted)
    read = sum(-(-len(text) // 4) for text in neutral()) + len(instructions()) * MOST_TOKENS
    assert (len(instructions()), MOST_TOKENS) == (20, 64)
    assert found.probes() == 2 * 65 * 4 + math.ceil(read / settings.grpo.at_once) * 4
    plain = replace(found, settings=make(reward=settings.reward.model_dump(), grpo=GRPO))
    for second, looks in ((False, 2), (True, 1)):
        more = found.evaluation(COUNTS, second=second) - plain.evaluation(COUNTS, second=second)
        assert more == pytest.approx(looks * found.probes())
    assert (
        pace.estimate(settings, SIZE, RATES, COUNTS).evaluation
        > pace.estimate(plain.settings, SIZE, RATES, COUNTS).evaluation
    )
