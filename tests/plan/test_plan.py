"""The plan: exact numbers of calls, honest money, and estimates that hold for what was measured."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.errors import SettingsError, UserError
from refine_rl.llm.client import Request
from refine_rl.llm.scripted import ScriptedConnections
from refine_rl.plan import Calls, Counts, calls, count_prompts, machine, make_plan, memory, pace, survey
from refine_rl.plan.calls import judged, judges_of, requests, resampled, validations
from refine_rl.plan.counts import written_counts
from refine_rl.plan.durations import Seconds, durations
from refine_rl.plan.machine import Rates
from refine_rl.plan.money import Cost, cost, missing_keys
from refine_rl.plan.pace import Fitted, Pace, Work
from refine_rl.plan.probe import probe_calls, wilson
from refine_rl.plan.rollback import repeated
from refine_rl.plan.words import over_budget
from refine_rl.policy.size import Size, model_size
from refine_rl.recipes import recipe_folder
from refine_rl.rewards.build import build_panel
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import load_settings, settings_from_dict
from refine_rl.training import memory as training_memory
from refine_rl.types import Prompt
from sizes import RATES, SIZE

MakeModel = Callable[..., Path]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNTS = Counts(train=40, validation=5, held_out=7, chars=400)


def make(**sections: Any) -> Settings:
    return settings_from_dict({"task": "Be brief and kind.", **sections}, Path())


def judging(*models: str, kind: str = "ruler", **judge: Any) -> dict[str, Any]:
    return {"reward": {"judges": list(models)}, "judge": {"kind": kind, **judge}}


def numbers(found: list[Calls]) -> dict[tuple[str, str], tuple[int, int]]:
    """(stage, model) -> (low, high); none of them twice."""
    by_stage = {(c.stage, c.model): (c.low, c.high) for c in found}
    assert len(by_stage) == len(found)
    return by_stage


# -- calls ----------------------------------------------------------------------------------------


def test_rules_cost_no_call() -> None:
    assert calls(make(reward={"rules": [{"rule": "words", "max": 20}]}), COUNTS) == []


@pytest.mark.parametrize(
    ("every", "steps", "times"), [(10, 25, 4), (10, 21, 4), (10, 20, 3), (30, 20, 2), (1, 3, 4), (0, 20, 1)]
)
def test_validations(every: int, steps: int, times: int) -> None:
    settings = make(grpo={"steps": steps, "validate_every": every})
    assert validations(settings.grpo, COUNTS) == times
    assert validations(settings.grpo, Counts(train=40, validation=0, held_out=7, chars=400)) == 0


GRPO = {"steps": 20, "prompts_per_step": 3, "validate_every": 10}


def test_a_win_rate_is_asked_for_in_both_orders() -> None:
    """7 held-out prompts: base against tuned, and both against the reference where there is one."""
    metrics = {"metrics": ["win_rate", "length"]}
    alone = make(reward={"rules": [{"rule": "words"}]}, evaluate={**metrics, "judge": "f/c"})
    assert numbers(calls(alone, COUNTS)) == {("first look", "f/c"): (2, 2), ("win rate", "f/c"): (14, 42)}
    (duels,) = [c for c in calls(alone, COUNTS) if c.stage == "win rate"]
    assert duels.purpose == "win rate"
    panel = make(**judging("e/a", "e/b", repeats=2), grpo=GRPO, evaluate=metrics)
    found = numbers(calls(panel, COUNTS))
    assert (found["win rate", "e/a"], found["win rate", "e/b"]) == ((14, 42), (14, 42))


def test_three_models_are_compared_where_the_run_begins_with_fine_tuning() -> None:
    """7 held-out prompts: an absolute judge sees each model's 5 answers apart, a ruler all 15 at once."""
    sft, duel = {"data": "file:pairs.jsonl"}, {"metrics": ["win_rate"]}
    two, three = (
        make(**judging("e/j", kind="absolute"), evaluate=duel, **more) for more in ({}, {"sft": sft})
    )
    assert numbers(calls(two, COUNTS))["held-out comparison", "e/j"] == (2 * 7 * 5, 2 * 7 * 5)
    assert numbers(calls(three, COUNTS))["held-out comparison", "e/j"] == (3 * 7 * 5, 3 * 7 * 5)
    assert numbers(calls(three, COUNTS))["win rate", "e/j"] == (2 * 7, 2 * 7 + 3 * 2 * 7)
    ruled = make(**judging("e/j"), sft=sft)
    (shown,) = [group for group in judged(ruled, COUNTS) if group.stage == "held-out comparison"]
    assert (shown.groups, shown.answers) == (7, 15)
    beside = [Pace(settings=s, size=SIZE, rates=RATES, prompt=100) for s in (two, three)]
    comparison = beside[0].sampling(7, 4) + beside[0].sampling(7, 1)
    assert beside[1].evaluation(COUNTS) - beside[0].evaluation(COUNTS) == pytest.approx(comparison)


ALL_RIVALS = {"rivals": ["prompt", "best_of_n", "sft"]}


def test_rivals_beside_a_ruler() -> None:
    """As many answers as training scores, 480: a text is tried beside base's answers, 4 a prompt, on 16 of
    the 40 training prompts and then on as many as are left, by threes. One of 8 answers is chosen 4 times for
    each of 7 held-out prompts, once for each of 40 training prompts. 7 groups of 5 sides, best of n without a
    greedy answer."""
    settings = make(**judging("e/j"), grpo=GRPO, evaluate=ALL_RIVALS)
    found = calls(settings, COUNTS)
    its = [c for c in found if c.stage.startswith("rival") and c.purpose == "judge"]
    assert numbers(its) == {
        ("rival prompt", "e/j"): (2 * 16, 120),
        ("rival best_of_n", "e/j"): (28, 28),
        ("rival sft", "e/j"): (40, 40),
    }
    (thought,) = [c for c in found if c.purpose == "rival prompt"]
    assert (thought.low, thought.high, thought.model) == (1, (120 - 32) // 3, "e/j")
    (shown,) = [group for group in judged(settings, COUNTS) if group.stage == "held-out comparison"]
    assert (shown.groups, shown.answers) == (7, 24)


def test_rivals_beside_an_absolute_judge_and_on_the_machine() -> None:
    judge = judging("e/j", kind="absolute")
    without, settings = (
        make(**judge, grpo=GRPO, evaluate=e) for e in ({}, {**ALL_RIVALS, "rival_calls": 96})
    )
    found = numbers([c for c in calls(settings, COUNTS) if c.purpose == "judge"])
    assert found["held-out comparison", "e/j"] == (7 * 24, 7 * 24)
    assert found["rival prompt", "e/j"] == (2 * 2 * 8, 96)
    assert found["rival best_of_n", "e/j"] == (28 * 8, 28 * 8)
    assert found["rival sft", "e/j"] == (96, 96)
    plain, more = (Pace(settings=s, size=SIZE, rates=RATES, prompt=100) for s in (without, settings))
    sampled = [(48, 2), (28, 8), (12, 8), *(2 * [(7, 4), (7, 1)])]
    said = 3 * 12 * plain.answer
    expected = sum(plain.sampling(*one) for one in sampled) + plain.once(3 * 12 * 100 + said, said, 2048)
    assert more.evaluation(COUNTS) - plain.evaluation(COUNTS) == pytest.approx(expected)


def test_every_stage_of_a_ruler() -> None:
    """20 steps of 3 groups; 5 validation prompts before training and twice later; 7 held-out prompts; bad
    answers beside 2 prompts, three times."""
    found = calls(make(**judging("e/j"), grpo=GRPO), COUNTS)
    assert numbers(found) == {
        ("first look", "e/j"): (1, 1),
        ("first validation", "e/j"): (5, 5),
        ("training", "e/j"): (60, 60),
        ("validation", "e/j"): (10, 10),
        ("held-out comparison", "e/j"): (7, 7),
        ("anchors", "e/j"): (6, 6),
    }
    assert {c.purpose: {f.stage for f in found if f.purpose == c.purpose} for c in found} == {
        "judge": {"first validation", "training", "validation", "held-out comparison"},
        "anchor": {"first look", "anchors"},
    }


def test_every_stage_of_an_absolute_judge() -> None:
    """A call an answer: 8 a group, 4 a validation prompt, 5 a held-out prompt and model, 4 + 8 bad ones."""
    assert numbers(calls(make(**judging("e/j", kind="absolute"), grpo=GRPO), COUNTS)) == {
        ("first look", "e/j"): (2, 2),
        ("first validation", "e/j"): (20, 20),
        ("training", "e/j"): (480, 480),
        ("validation", "e/j"): (40, 40),
        ("held-out comparison", "e/j"): (70, 70),
        ("anchors", "e/j"): (72, 72),
    }


def test_every_stage_of_pairs() -> None:
    """Both orders of all pairs of up to 9 answers; of 10 and 12, each meets 8 others."""
    assert numbers(calls(make(**judging("e/j", kind="pairwise"), grpo=GRPO), COUNTS)) == {
        ("first look", "e/j"): (2, 2),
        ("first validation", "e/j"): (5 * 12, 5 * 12),
        ("training", "e/j"): (60 * 56, 60 * 56),
        ("validation", "e/j"): (10 * 56, 10 * 56),
        ("held-out comparison", "e/j"): (7 * 80, 7 * 80),
        ("anchors", "e/j"): (6 * 96, 6 * 96),
    }


def test_a_judge_without_weight_compares_nothing() -> None:
    settings = make(
        reward={"judges": ["e/j"], "rules": [{"rule": "words", "max": 9}]}, judge={"weight": 0.0}, grpo=GRPO
    )
    held_out = next(g for g in judged(settings, COUNTS) if g.stage == "held-out comparison")
    assert (held_out.groups, held_out.answers) == (14, 5)
    validation = next(g for g in judged(settings, COUNTS) if g.stage == "validation")
    assert (validation.groups, validation.answers) == (10, 4)


def test_one_answer_is_not_judged_beside_nothing() -> None:
    settings = make(**judging("e/j"), grpo=GRPO, evaluate={"samples": 1})
    found = numbers(calls(settings, COUNTS))
    assert ("first validation", "e/j") not in found
    assert found["validation", "e/j"] == (10, 10)


def test_without_validation_the_bad_answers_come_once() -> None:
    counts = Counts(train=1, validation=0, held_out=7, chars=400)
    found = numbers(calls(make(**judging("e/j"), grpo={**GRPO, "prompts_per_step": 1}), counts))
    assert found["anchors", "e/j"] == (1, 1)  # one training prompt only
    assert ("validation", "e/j") not in found
    off = make(**judging("e/j", anchors=False), grpo=GRPO)
    assert ("anchors", "e/j") not in numbers(calls(off, COUNTS))


def test_sanity_cases_and_the_probe_of_the_pool() -> None:
    case = {"prompt": "Hi.", "good": "Hello.", "bad": "Go."}
    settings = make(
        reward={"judges": ["e/j"], "sanity": [case, case]},
        judge={"kind": "absolute"},
        prompts={"pool": "informative", "probe": 4},
        grpo=GRPO,
    )
    found = numbers(calls(settings, COUNTS))
    assert found["sanity cases", "e/j"] == (4, 4)
    assert found["probe of the pool", "e/j"] == (160, 160)


def test_another_judge_for_the_comparison() -> None:
    settings = make(**judging("e/a", "e/b", repeats=2), grpo=GRPO, evaluate={"judge": "f/c"})
    found = numbers(calls(settings, COUNTS))
    assert {m: n for (stage, m), n in found.items() if stage == "held-out comparison"} == {"f/c": (14, 14)}
    assert found["training", "e/a"] == found["training", "e/b"] == (120, 120)


def test_another_eye_looks_at_every_validation_answer_by_itself() -> None:
    rules = {"reward": {"rules": [{"rule": "words"}]}, "grpo": GRPO}
    eye = {"judge": "f/c", "on_drift": "warn", "samples": 3}
    alone = numbers(calls(make(**rules, evaluate=eye, judge={"repeats": 2}), COUNTS))
    looks = 5 * validations(make(**rules).grpo, COUNTS) * 3 * 2
    assert alone == {("first look", "f/c"): (2, 2), ("validation, another eye", "f/c"): (looks, looks)}
    both = make(**judging("e/a", "e/b"), grpo=GRPO, evaluate={"rubric": "Be plain.", "on_drift": "stop"})
    found = numbers(calls(both, COUNTS))
    without = make(**judging("e/a", "e/b"), grpo=GRPO)
    more = 5 * validations(both.grpo, COUNTS) * both.evaluate.samples
    assert {k: n for k, n in found.items() if k[0] != "validation, another eye"} == numbers(
        calls(without, COUNTS)
    )
    assert {m: n for (stage, m), n in found.items() if stage == "validation, another eye"} == {
        "e/a": (more, more),
        "e/b": (more, more),
    }


@pytest.mark.parametrize(
    ("steps", "every", "again"),
    [(20, 10, (0, 0)), (21, 10, (10, 1)), (8, 2, (4, 2)), (9, 2, (6, 3)), (3, 1, (1, 1)), (1, 1, (0, 0))],
)
def test_what_a_rollback_repeats_at_most(steps: int, every: int, again: tuple[int, int]) -> None:
    """From the last look before the last step, at which training is over anyway, to the first one."""
    watched = {"rules": [{"rule": "words", "max": 9}, {"rule": "chars", "weight": 0.0}]}
    grpo = {**GRPO, "steps": steps, "validate_every": every}
    settings = make(reward=watched, grpo=grpo, evaluate={"on_drift": "rollback"})
    found = repeated(settings, COUNTS)
    assert (found.steps, found.looks) == again
    assert repeated(settings, replace(COUNTS, validation=4)).steps == 0  # too few for a drift to be seen
    assert repeated(make(reward=watched, grpo=grpo, evaluate={"on_drift": "stop"}), COUNTS).steps == 0


def test_a_rollback_is_in_the_high_figures_alone() -> None:
    """5 steps of 3 groups, looks at steps 1 to 5: 3 steps and 3 looks may come again."""
    grpo = {**GRPO, "steps": 5, "validate_every": 1}
    sections = {
        **judging("ollama/a"),
        "model": {"name": "tiny"},
        "grpo": grpo,
        "evaluate": {"judge": "ollama/b", "samples": 2},
    }
    usual = make(**sections)
    sections["evaluate"] = {**sections["evaluate"], "on_drift": "rollback"}
    sections["reward"] = {**sections["reward"], "quiz": {"writer": "ollama/w", "reader": "ollama/r"}}
    settings = make(**sections)
    found = numbers(calls(settings, COUNTS))
    assert found["training", "ollama/a"] == (15, 24)
    assert found["validation", "ollama/a"] == (25, 40)
    assert found["validation, another eye", "ollama/b"] == (6 * 10, 9 * 10)
    assert found["anchors", "ollama/a"] == (6 * usual.judge.anchor_prompts, 9 * usual.judge.anchor_prompts)
    members = settings.rollout.group_size
    quizzed = {c.stage: (c.low, c.high) for c in calls(settings, COUNTS) if c.purpose == "quiz"}
    assert quizzed["training"] == (15 * members, 24 * members)
    assert quizzed["validation"] == (5 * 10, 2 * 8 * 10)  # beside a ruler base's answers come up again
    plan, plain = make_plan(settings, COUNTS, rates=RATES), make_plan(usual, COUNTS, rates=RATES)
    (said,) = [note for note in plan.notes if "rollback" in note]
    assert "repeats then at most 3 steps and 3 validations: the high figures count them" in said
    assert not [note for note in plain.notes if "rollback" in note]
    assert plan.work is not None
    assert plain.work is not None
    assert plan.work.evaluation[0] == plain.work.evaluation[0]
    assert plan.work.evaluation[1] > plain.work.evaluation[1]
    assert plan.work.step == plain.work.step


def test_a_rollback_takes_time() -> None:
    work = Work(step=(1.0, 2.0), evaluation=(0.0, 0.0), memory=(0.0, 0.0), disk=0.0)
    (judged,) = [c for c in calls(make(**judging("e/a"), grpo=GRPO), COUNTS) if c.stage == "training"]
    more = replace(judged, low=20, high=30)  # of 20 steps, ten of which may come again: one a step
    again = durations([more], work, steps=20, ahead=False, endpoints={}, again=10)
    assert again.training is not None
    assert again.training[1] - pace.START == 30 * (2.0 + 3.0)
    assert again.training[0] - pace.START == 20 * 3.0


def test_early_exits_are_short_and_may_be_few() -> None:
    """20 steps of 3 groups: one whole answer each, and up to 7 exits of at most 16 tokens."""
    exits = {"ends": "</think>", "answer_tokens": 16}
    settings = make(
        **judging("e/a", kind="absolute"), grpo=GRPO, rollout={"early_exit": exits, "max_tokens": 256}
    )
    found = numbers(calls(settings, COUNTS))
    assert found["training", "e/a"] == (60, 60 * 8)
    assert found["validation", "e/a"] == (40, 40)  # there the model thinks as it likes
    fitted = Fitted(launch=1.0, started=0.0, slowdown=1.0, traffic=0.0)
    free = replace(RATES, train=math.inf, decode=math.inf, bytes=math.inf)
    whole = Pace(settings=settings, size=SIZE, rates=free, prompt=100, given=fitted)
    # Passes through 4 layers: the prompt and 256 tokens, then each exit's beginning and 16 tokens.
    assert whole.rollouts(3, 8) == 4 * (257 + 17)
    assert whole.sampling(3, 8) == 4 * 257
    reading = replace(whole, rates=replace(free, train=1e6), given=replace(fitted, launch=0.0))
    read = 3 * 100 + 3 * 7 * (100 + 128) + 3 * 100  # each exit is a prompt and half of a thought
    assert reading.rollouts(3, 8) == pytest.approx(read * 2 * SIZE.linear / 1e6)
    usual = replace(whole, settings=make(**judging("e/a", kind="absolute"), grpo=GRPO))
    assert usual.rollouts(3, 8) == whole.sampling(3, 8)
    # Trained on are 3 prompts, 3 whole answers and 21 halves of a thought with 16 tokens behind it.
    learning = replace(reading, rates=replace(free, train=1e6))
    said = 3 * 256 + 21 * (128 + 16)
    work = 2 * ((3 * 100 + said) * 2 * SIZE.linear + said * 2 * SIZE.vocabulary * SIZE.hidden)
    assert learning.training(3, 8) == pytest.approx(work / 1e6)


def test_what_a_world_says_is_read() -> None:
    """3 turns of at most 50 tokens, and 30 tokens before the second and the third."""
    world = {"environment": "my_env.py:Guess", "turns": 3, "max_tokens": 50}
    settings = make(rollout=world, reward={}, grpo=GRPO)
    fitted = Fitted(launch=1.0, started=0.0, slowdown=1.0, traffic=0.0)
    free = replace(RATES, train=math.inf, decode=math.inf, bytes=math.inf)
    turns = Pace(settings=settings, size=SIZE, rates=free, prompt=100, given=fitted)
    assert turns.sampling(3, 8) == 4 * (3 + 150)  # passes through 4 layers: three beginnings, 150 tokens
    assert turns.sampling(3, 8, 64) == 4 * (1 + 64)  # what is not of the task is one answer
    reading = replace(turns, rates=replace(free, train=1e6), given=replace(fitted, launch=0.0))
    assert reading.sampling(3, 8) == pytest.approx((3 * 100 + 24 * 60) * 2 * SIZE.linear / 1e6)
    said = 24 * 150
    work = 2 * ((3 * 100 + said + 24 * 60) * 2 * SIZE.linear + said * 2 * SIZE.vocabulary * SIZE.hidden)
    assert reading.training(3, 8) == pytest.approx(work / 1e6)


def test_what_judges_decide_is_a_range() -> None:
    panel = make(**judging("e/a", "e/b", "e/c", adaptive=True, repeats=2, larger="f/big"))
    assert judges_of(panel, COUNTS).looks() == [("e/a", 1, 2), ("e/b", 1, 2), ("e/c", 0, 2), ("f/big", 0, 1)]
    alone = make(**judging("e/a", adaptive=True, repeats=5))
    assert judges_of(alone, COUNTS).looks() == [("e/a", 2, 5)]
    gated = make(
        reward={"judges": ["e/j"], "rules": [{"rule": "words", "max": 9}]},
        judge={"gate": ["words"]},
        grpo=GRPO,
    )
    found = numbers(calls(gated, COUNTS))
    assert (found["training", "e/j"], found["anchors", "e/j"]) == ((0, 60), (6, 6))


def test_a_writer() -> None:
    """64 + 12 + 24 prompts in batches of 8, each checked; facets, system message and rubric once."""
    settings = make(
        writer={"model": "e/w", "batch": 8}, reward={"judges": ["e/j"], "rubric": "write"}, grpo=GRPO
    )
    counts = written_counts(settings.prompts, settings.writer)
    assert (counts.train, counts.validation, counts.held_out, counts.written) == (64, 12, 24, True)
    found = [c for c in calls(settings, counts) if c.model == "e/w"]
    assert numbers(found) == {
        ("facets", "e/w"): (1, 1),
        ("prompts", "e/w"): (13, 26),
        ("check of the prompts", "e/w"): (13, 26),
        ("system message", "e/w"): (1, 1),
        ("rubric", "e/w"): (1, 1),
    }
    assert [c.purpose for c in found] == ["writer"] * 4 + ["rubric"]
    fixed = make(
        writer={"model": "e/w", "check": False},
        prompts={"facets": {"tone": ["calm", "angry"]}, "system": "Be kind.", "train": 6},
        reward={"judges": ["e/j"]},
    )
    assert numbers(
        [c for c in calls(fixed, written_counts(fixed.prompts, fixed.writer)) if c.model == "e/w"]
    ) == {("prompts", "e/w"): (5, 10)}


def quiz_prompts() -> list[Prompt]:
    """4 training prompts over 3 sources, 1 validation and 2 held-out prompts, one over a training source."""
    rows = [("train", t) for t in "aabc"] + [("validation", "d"), ("held_out", "e"), ("held_out", "a")]
    return [
        prompt(n, "Sum up.", split=split, source=text * 100)  # type: ignore[arg-type]
        for n, (split, text) in enumerate(rows)
    ]


def test_a_quiz() -> None:
    settings = make(
        reward={"quiz": {"writer": "e/w", "reader": "e/r"}},
        grpo={"steps": 20, "prompts_per_step": 3, "validate_every": 0},
    )
    counts = count_prompts(quiz_prompts(), settings.reward.quiz)
    assert (counts.train_sources, counts.other_sources, counts.source_chars) == (3, 2, 100.0)
    found = calls(settings, counts)
    assert numbers(found) == {
        ("questions", "e/w"): (5, 5),
        ("check of the questions", "e/r"): (10, 10),
        ("first look", "e/r"): (1, 3),
        ("first validation", "e/r"): (4, 4),
        ("training", "e/r"): (480, 480),
        ("held-out comparison", "e/r"): (20, 20),
    }
    case = {"prompt": "Sum up.", "good": "A.", "bad": "B.", "data": {"source": "x"}}
    checked = make(reward={"quiz": {"writer": "e/w"}, "sanity": [case]}, grpo=GRPO)
    found_more = numbers(calls(checked, counts))
    assert (found_more["sanity cases", "e/w"], found_more["questions", "e/w"]) == ((2, 2), (6, 6))
    few = make(reward=settings.reward.model_dump(exclude_none=True), grpo={"steps": 1, "prompts_per_step": 2})
    assert numbers(calls(few, counts))["questions", "e/w"] == (4, 4)  # 2 of the 3 training sources


def test_a_quiz_beside_a_ruler_reads_base_answers_again() -> None:
    settings = make(
        reward={"judges": ["e/j"], "quiz": {"writer": "e/w"}},
        grpo={"steps": 20, "prompts_per_step": 3, "validate_every": 10},
    )
    found = [
        c for c in calls(settings, count_prompts(quiz_prompts(), settings.reward.quiz)) if c.purpose == "quiz"
    ]
    assert numbers(found)["validation", "e/j"] == (8, 16)  # the first judge reads


def reply_to(request: Request) -> str:
    """A judge that can be asked in every way, and never hesitates."""
    assert request.schema is not None
    if request.schema.name == "scores":
        properties = request.schema.schema["properties"]["scores"]["items"]["properties"]
        ids = properties["trajectory_id"]["enum"]
        return json.dumps(
            {"scores": [{"trajectory_id": i, "explanation": "", "score": n / 20} for n, i in enumerate(ids)]}
        )
    if request.schema.name == "comparison":
        return '{"explanation": "", "winner": "A"}'
    return '{"explanation": "", "score": 5}'


def reversed_scores(request: Request) -> str:
    """Its looks at a group contradict those of `reply_to`, which sees the answers in another order."""
    answers = sorted(
        part.split("</trajectory>")[0] for part in request.messages[-1]["content"].split('id="')[1:]
    )
    found = [(a[:6], a[6:]) for a in answers]
    order = sorted(text for _, text in found)
    sign = 1 if request.variation.endswith("0") else -1
    return json.dumps(
        {
            "scores": [
                {"trajectory_id": i, "explanation": "", "score": 0.5 + sign * order.index(text) / 20}
                for i, text in found
            ]
        }
    )


@pytest.mark.parametrize("kind", ["ruler", "absolute", "pairwise"])
@pytest.mark.parametrize("answers", [1, 2, 8, 11])
def test_the_judges_make_the_calls_that_were_planned(kind: str, answers: int) -> None:
    settings = make(**judging("e/a", "e/b", kind=kind, repeats=2))
    made = group_calls(settings, answers, reply_to)
    each = requests(kind, answers)
    assert made == {m: each * high for m, _, high in judges_of(settings, COUNTS).looks() if each}
    assert all(low == high for _, low, high in judges_of(settings, COUNTS).looks())


@pytest.mark.parametrize(("brain", "which"), [(reply_to, 0), (reversed_scores, 1)])
def test_adaptive_judges_keep_to_their_range(brain: Callable[[Request], str], which: int) -> None:
    """Where two looks agree, the low figure; where all contradict each other, the high one."""
    agree = -1.0 if which == 0 else 0.9
    settings = make(**judging("e/a", adaptive=True, repeats=3, larger="f/big", agree=agree))
    made = group_calls(settings, 8, brain)
    planned = {model: (low, high)[which] for model, low, high in judges_of(settings, COUNTS).looks()}
    assert made == {model: number for model, number in planned.items() if number}


def group_calls(settings: Settings, answers: int, brain: Callable[[Request], str]) -> Counter[str]:
    """Requests by model for one group of so many different answers."""
    asked: Counter[str] = Counter()

    def recording(model: str) -> Callable[[Request], str]:
        def answer(request: Request) -> str:
            asked[model] += 1
            return brain(request)

        return answer

    models = [*settings.reward.judges, *filter(None, [settings.judge.larger])]
    connections = ScriptedConnections({m: recording(m) for m in models})
    scored(build_panel(settings, connections), prompt(), *(f"answer {n}" for n in range(answers)))
    return asked


# -- money ----------------------------------------------------------------------------------------


def test_tokens_of_a_call() -> None:
    """500 of instructions, 5 of the task, 100 of the prompt, and 8 answers of 128 to 256 with 30 around."""
    settings = make(**judging("e/j"), grpo=GRPO)
    training = next(c for c in calls(settings, COUNTS) if c.stage == "training")
    assert training.tokens_in == (605 + 8 * 158, 605 + 8 * 286)
    assert training.tokens_out == (8 * 40, 8 * 80 + 2000)
    short = make(**judging("e/j", max_tokens=300), grpo=GRPO)
    assert next(c for c in calls(short, COUNTS) if c.stage == "training").tokens_out == (300, 300)


def test_dollars_come_from_the_settings_and_unknown_is_not_0() -> None:
    prices = {"org/paid": {"input": 1.0, "output": 10.0}}
    settings = make(
        **judging("local/org/paid", "local/org/free"),
        grpo=GRPO,
        endpoints={"local": {"base_url": "http://127.0.0.1:1/v1", "prices": prices}},
    )
    found = cost(calls(settings, COUNTS), settings.endpoints)
    paid = [c for c in calls(settings, COUNTS) if c.model == "local/org/paid"]
    assert found.unknown == ("local/org/free",)
    assert found.low == pytest.approx(
        sum(c.low * (c.tokens_in[0] + 10 * c.tokens_out[0]) for c in paid) / 1e6
    )
    assert found.high == pytest.approx(
        sum(c.high * (c.tokens_in[1] + 10 * c.tokens_out[1]) for c in paid) / 1e6
    )
    planned = make_plan(settings, COUNTS)
    assert {line.dollars is None for line in planned.lines if line.calls.model == "local/org/free"} == {True}
    assert any("Without a known price: local/org/free." in note for note in planned.notes)


def test_the_high_figure_counts_all_looks() -> None:
    settings = make(
        **judging("local/j", adaptive=True, repeats=5),
        endpoints={
            "local": {"base_url": "http://127.0.0.1:1/v1", "prices": {"*": {"input": 0.0, "output": 1.0}}}
        },
    )
    one = Calls(
        purpose="judge",
        stage="training",
        model="local/j",
        low=2,
        high=5,
        tokens_in=(9, 9),
        tokens_out=(100, 1000),
    )
    assert cost([one], settings.endpoints) == Cost(low=200 / 1e6, high=5000 / 1e6, unknown=())


def test_what_exceeds_the_budget_is_said() -> None:
    settings = make(budget={"dollars": 2.0, "hours": 1.0})

    def said(low: float, high: float, hours: tuple[float, float] | None) -> list[str]:
        training = None if hours is None else (hours[0] * 3600, hours[1] * 3600)
        seconds = Seconds(machine=None, judges=(0.0, 0.0), training=training, total=None)
        return over_budget(settings.budget, Cost(low=low, high=high, unknown=()), seconds, {})

    assert said(1.0, 2.0, (0.5, 1.0)) == []
    assert said(1.0, 2.0, None) == []
    dollars, hours = said(2.5, 8.0, (0.5, 1.5))
    assert dollars.startswith("The plan exceeds budget.dollars = 2: 2.5 to 8.")
    assert hours.startswith("The plan may exceed budget.hours = 1: 0.5 to 1.5.")
    blind = over_budget(
        settings.budget,
        Cost(low=0.0, high=0.0, unknown=("local/org/free",)),
        Seconds(machine=None, judges=(0.0, 0.0), training=None, total=None),
        {},
    )
    assert blind == [
        "budget.dollars needs the price of every model. Write into the task file, at its end, with the right "
        "figures (dollars a million tokens; 0 for a model of your own):\n"
        '[endpoints.local.prices]\n"org/free" = {input = 5.0, output = 25.0}'
    ]


def test_keys_are_looked_for_and_not_needed() -> None:
    settings = make(
        reward={"judges": ["openrouter/x", "ollama/y", "own/z"]},
        endpoints={"own": {"base_url": "https://example.org/v1", "key_env": "OWN_KEY"}},
    )
    models = settings.reward.judges
    assert missing_keys(models, settings.endpoints, {}) == ["OPENROUTER_API_KEY", "OWN_KEY"]
    assert missing_keys(models, settings.endpoints, {"OPENROUTER_API_KEY": "k", "OWN_KEY": " "}) == [
        "OWN_KEY"
    ]


# -- time and memory ------------------------------------------------------------------------------

# Two cores of a Xeon with AMX, as `measure` finds them there.
TWO_CORES = Rates(device="cpu", dtype="bfloat16", train=1.0e12, decode=2.4e11, bytes=2.5e10)
DEMO = Counts(train=480, validation=24, held_out=64, chars=88)


def test_the_demo_takes_what_was_measured() -> None:
    """35 s with two cores of an AMD EPYC (avx512_bf16) to itself; 1.0 and 1.9 GB."""
    settings = load_settings(recipe_folder("style"))
    rates = Rates(device="cpu", dtype="bfloat16", train=9.6e11, decode=4.8e11, bytes=9e10)
    planned = make_plan(settings, DEMO, rates=rates)
    assert planned.seconds.total is not None
    assert planned.work is not None
    low, high = planned.seconds.total
    assert 35 / 2 < low < 35 < high < 35 * 2
    assert 1.0e9 / 2 < planned.work.memory[0] < planned.work.memory[1] < 1.9e9
    assert planned.lines == ()
    assert planned.cost == Cost(low=0.0, high=0.0, unknown=())


def test_size_of_the_bundled_model() -> None:
    settings = make(model={"name": "tiny", "rank": 16})
    size = model_size(settings.model)
    assert size == Size(
        parameters=3_672_832,
        linear=4 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 768),
        adapted=4 * (2 * 512 + 2 * 384 + 3 * 1024),
        layers=4,
        hidden=256,
        intermediate=768,
        kv=128,
        vocabulary=2048,
        context=1024,
    )
    assert size.trainable(settings.model) == 311_296  # as peft counts them
    assert size.trainable(make(model={"name": "tiny", "adapter": "none"}).model) == 3_672_832
    one = model_size(make(model={"name": "tiny", "targets": ["q_proj"]}).model)
    assert one.adapted == 4 * 512


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "gemma3_text"])
def test_size_of_other_architectures(kind: str, make_model: MakeModel) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_model(kind)
    size = model_size(make(model={"name": str(folder)}).model)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert size.vocabulary == model(torch.tensor([[1]])).logits.shape[-1]
    assert (size.layers, size.hidden) == (2, 32)
    assert 2 * 4 * 32 * 32 < size.linear < size.parameters


def test_an_unknown_model_is_said() -> None:
    settings = make(
        model={"name": "nobody/nothing"},
        **judging("e/j"),
        grpo=GRPO,
        endpoints={"e": {"base_url": "http://127.0.0.1:1/v1"}},
    )
    planned = make_plan(settings, COUNTS)
    assert (planned.size, planned.work, planned.seconds.total) == (None, None, None)
    assert planned.notes[0].startswith("nobody/nothing is not on this machine yet, so its size is unknown")
    with pytest.raises(UserError, match="there is no such folder"):
        make_plan(make(model={"name": "./nothing"}), COUNTS)


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "measure", lambda *model, **shapes: RATES)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 0.0, 0.0), raising=False)
    settings, told = make(model={"name": "tiny"}), "(a load of 2.5 on 2 cores)"
    measured, given = make_plan(settings, COUNTS), make_plan(settings, COUNTS, rates=RATES)
    assert [told in " ".join(plan.notes) for plan in (measured, given)] == [True, False]
    assert machine.crowded("cuda") == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 9.0, 9.0))
    assert machine.crowded("cpu") == ""


def work(step: float, evaluation: float = 0.0) -> Work:
    return Work(step=(step, 2 * step), evaluation=(evaluation,) * 2, memory=(0.0, 0.0), disk=0.0)


def how_long(settings: Settings, planned: list[Calls], machine: Work | None, *, waves: int = 0) -> Seconds:
    return durations(
        planned,
        machine,
        steps=settings.grpo.steps,
        ahead=settings.ahead,
        endpoints=settings.endpoints,
        waves=waves,
    )


def test_waiting_for_judges() -> None:
    """60 groups, 3 a step: with 2 at once, two rounds of 3 s a step; around training, 7 calls in 4 rounds,
    and a first look in one."""
    settings = make(**judging("e/j", anchors=False), grpo=GRPO, endpoints={"e": {"concurrency": 2}})
    counts = Counts(train=40, validation=0, held_out=7, chars=400)
    planned = calls(settings, counts)
    assert how_long(settings, planned, None).judges == (20 * 6.0 + 15.0, 20 * 6.0 + 15.0)
    beside = how_long(settings, planned, work(step=5.0, evaluation=30.0))
    assert beside.machine == (pace.START + 100 + 30, pace.START + 200 + 30)
    # Low: side by side. High: 1.15 times the longer, then the comparison and its judge one after the other.
    assert beside.training == (pace.START + 120, pace.START + 1.15 * 200)
    assert beside.total == (pace.START + 120 + 30, pace.START + 1.15 * 200 + 30 + 15)
    waits = make(
        **judging("e/j", anchors=False),
        grpo=GRPO,
        endpoints={"e": {"concurrency": 2}},
        rollout={"ahead": 0},
    )
    assert how_long(waits, planned, work(step=5.0)).training == (
        pace.START + 120,
        pace.START + 200 + 120,
    )


def test_endpoints_work_side_by_side() -> None:
    one = make(**judging("e/a", "e/b", anchors=False), grpo=GRPO)
    two = make(**judging("e/a", "f/b", anchors=False), grpo=GRPO)
    counts = Counts(train=40, validation=0, held_out=8, chars=400)
    # Each of the two models' calls of a step are a round of their own at one endpoint.
    assert how_long(one, calls(one, counts), None).judges == (20 * 6.0 + 12.0,) * 2
    assert how_long(two, calls(two, counts), None).judges == (20 * 3.0 + 6.0,) * 2


ROUND = Fitted(launch=1e-3, started=4e-3, slowdown=3.0, traffic=10)


def test_time_of_a_step() -> None:
    """The module's formulas, once by hand: 3 prompts of 100 tokens x 8 answers of 256."""
    settings = make(grpo=GRPO)
    found = Pace(settings=settings, size=SIZE, rates=RATES, prompt=100, given=ROUND)
    said, launch = 24 * 256, 4 * 1e-3
    sampling = (
        257 * launch
        + 3 * (300 * 2 * 800_000 / 1e9 + said * 2 * 1_000_000 / 5e8)
        + said * 2000 * pace.VOCABULARY_BYTES / 1e9
    )
    assert found.sampling(3, 8) == pytest.approx(sampling)
    activation = 4 * (34 * 100 + 4 * 400) + 4 * (600 + 400)
    whole = 300 + said  # a prompt once for all its answers
    training = (
        3 * 2 * (whole * 2 * 800_000 + said * 2 * 200_000) / 1e9
        + 10 * whole * 4 * activation / 1e9
        + math.ceil(whole / 2048) * 4 * 4e-3
    )
    assert found.training(3, 8) == pytest.approx(training)
    assert found.step() == pytest.approx(sampling + training)
    assert found.evaluation(COUNTS) == pytest.approx(
        3 * found.sampling(5, 4) + 2 * (found.sampling(7, 4) + found.sampling(7, 1))
    )

    def changed(**sections: Any) -> float:
        return replace(found, settings=make(**{"grpo": GRPO, **sections})).training(3, 8)

    assert changed(grpo={**GRPO, "kl": 0.1, "updates_per_step": 2}) == pytest.approx((2 + 1 / 3) * training)
    assert changed(model={"gradient_checkpointing": True}) == pytest.approx(1.5 * training)
    full = {"adapter": "none", "gradient_checkpointing": True}
    assert changed(model=full) == pytest.approx(4 / 3 * changed(model={"adapter": "none"}))


def test_low_and_high_of_a_step() -> None:
    found = pace.estimate(make(grpo=GRPO), SIZE, RATES, COUNTS)
    half, whole = (
        Pace(settings=make(grpo=GRPO), size=SIZE, rates=RATES, prompt=100, share=share).step()
        for share in (0.5, 1.0)
    )
    assert found.step == (half, whole)
    assert 0 < half < 0.6 * whole


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, found)  # its dataclasses look themselves up
    spec.loader.exec_module(found)
    return found


def test_a_fit_finds_the_figures_that_made_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    plan_fit = script("plan_fit", monkeypatch)
    shapes = [(3, 8, 100), (3, 8, 700), (1, 4, 20), (64, 4, 50)]

    def times(true: Fitted) -> list[Any]:
        found = []
        for prompts, members, tokens in shapes:
            settings = make(grpo={"prompts_per_step": prompts}, rollout={"group_size": members})
            one = Pace(settings=settings, size=SIZE, rates=RATES, prompt=tokens, given=true)
            seconds = {"sample": one.sampling(prompts, members), "train": one.training(prompts, members)}
            found += [plan_fit.Timed(name="", seconds=s, pace=one, part=part) for part, s in seconds.items()]
        return found

    for true in (
        Fitted(launch=1e-3, started=4e-3, slowdown=3.0, traffic=10.0),
        Fitted(launch=0.0, started=2e-3, slowdown=2.0, traffic=5.0),
    ):
        fitted = plan_fit.fit(times(true))
        assert asdict(fitted) == pytest.approx(asdict(true), abs=1e-9)
        assert plan_fit.off(times(true), fitted) == pytest.approx((1.0, 1.0))
    # Times that a figure below 0 would explain best: it is 0, and the others make up for it.
    assert plan_fit.fit(times(Fitted(launch=-1e-4, started=3e-3, slowdown=3.0, traffic=10.0))).launch == 0.0
    twice = [replace(t, seconds=2 * t.seconds) for t in times(true)]
    assert plan_fit.off(twice, true) == pytest.approx((2.0, 2.0))


def test_the_figures_of_a_card_are_near_what_was_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, and the most that was held in memory, of the steps that benchmarks/gpu.py timed on an H200."""
    plan_fit = script("plan_fit", monkeypatch)
    measured = json.loads((BENCHMARKS / "gpu_points.json").read_text())
    found = list(plan_fit.points(measured))
    assert len(found) == 10
    middle, most = plan_fit.off(found, pace.FITTED["cuda"])
    assert middle < 1.1
    assert most < 1.25
    rows = [line.split("|") for line in plan_fit.memory_table(measured)][2:]
    assert len(rows) == 5
    for _, _, peak, formulas, _ in rows:
        assert 1.0 < float(formulas.replace(",", "")) / float(peak.replace(",", "")) < 1.15


def test_a_fit_takes_the_points_of_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As benchmarks/gpu.py writes them; made here from known figures, which come out again."""
    plan_fit = script("plan_fit", monkeypatch)
    true = Fitted(launch=3e-4, started=6e-3, slowdown=2.0, traffic=12.0)
    card = replace(RATES, device="cuda", dtype="bfloat16", train=1e12, decode=4e11, bytes=1e11)

    def step(prompts: int, tokens: int, at_once: int, **more: Any) -> dict[str, Any]:
        shape = {"prompts": prompts, "group_size": 8, "prompt_tokens": tokens, "completion_tokens": 256}
        known = {"adapter": "lora", "dtype": "bfloat16", "tokens_at_once": at_once, "parameters": 1_000_000}
        made = {
            **shape,
            **known,
            **more,
            "size": asdict(SIZE),
            "rates": asdict(card),
            "peak_device_mb": 900.0,
        }
        one = replace(plan_fit.pace_of(made), given=true)
        made["seconds"] = {"sample": one.sampling(prompts, 8), "train": one.training(prompts, 8)}
        return made

    items = {
        "grpo: a": {"refine": step(8, 64, 32_768)},
        "grpo: b": {"refine": step(8, 700, 2048), "trl": {"seconds": {"sample": 1.0, "train": 1.0}}},
        "grpo: c": {"refine": {"failed": "OutOfMemoryError"}},
        "sweep: a": {"rows": [step(32, 512, n, asked=n) for n in (2048, 8192)]},
        "qlora: no": {"failed": "bitsandbytes is not there"},
    }
    (tmp_path / "gpu.json").write_text(json.dumps({"items": items}))
    monkeypatch.setattr(sys, "argv", ["plan_fit.py", "--points", str(tmp_path / "gpu.json")])
    plan_fit.main()
    said = capsys.readouterr().out
    assert said.endswith('    "cuda": Fitted(launch=0.0003, started=0.006, slowdown=2, traffic=12),\n')
    assert said.count(": sample |") == 2
    assert said.count(": train |") == 4
    assert "| 1 M, lora, 8 x 8 x (64 + 256), 32,768 at once | 900 | " in said
    assert "new: off by a factor of 1.00 typically, 1.00 at worst" in said


# -- groups in the place of those without spread ----------------------------------------------------


def test_resampling_is_counted_in_the_high_figures_alone() -> None:
    """20 steps of 3 groups, and up to 2 more in each; 8 answers and one look by a ruler each."""
    settings = make(**judging("e/j", anchors=False), grpo={**GRPO, "resample": 2})
    found = numbers(calls(settings, COUNTS))
    assert found["training", "e/j"] == (60, 100)
    assert found["validation", "e/j"] == (10, 10)
    absolute = make(**judging("e/j", kind="absolute", anchors=False), grpo={**GRPO, "resample": 2})
    assert numbers(calls(absolute, COUNTS))["training", "e/j"] == (480, 800)
    # There are only 4 prompts: beside the 3 of a step there is one that can be added.
    few = Counts(train=4, validation=0, held_out=7, chars=400)
    assert resampled(settings.grpo, few) == 1
    assert numbers(calls(settings, few))["training", "e/j"] == (60, 80)
    assert resampled(settings.grpo, Counts(train=2, validation=0, held_out=7, chars=400)) == 0


SOLVABLE = {"rules": [{"rule": "words", "max": 3, "strict": True}]}


def test_graded_steps_are_counted_in_the_high_figures_alone() -> None:
    """20 steps of 3 groups of 8; one judge twice in the list, each asked `repeats` times."""
    graded = {"reward": {**SOLVABLE, "steps": {"judges": ["e/a", "e/b", "e/a"]}}, "judge": {"repeats": 2}}
    settings = make(**graded, grpo={**GRPO, "flat": "steps", "solved": 1.0}, rollout={"max_tokens": 100})
    found = calls(settings, COUNTS)
    assert numbers(found) == {
        ("first look", "e/a"): (2, 2),
        ("first look", "e/b"): (2, 2),
        ("steps of wrong answers", "e/a"): (0, 20 * 3 * 8 * 2 * 2),
        ("steps of wrong answers", "e/b"): (0, 20 * 3 * 8 * 2),
    }
    assert {c.purpose for c in found} == {"anchor", "steps"}
    low, high = found[-1].tokens_in
    assert (high - low, found[-1].tokens_out) == (50, (40, 2080))
    # 20 steps wait for 48 + 96 calls each, 8 at once, 3 s a call; a first look at each.
    assert how_long(settings, found, None).judges == (6.0, 20 * (12 + 6) * 3.0 + 6.0)
    priced = make(
        **graded,
        grpo={**GRPO, "flat": "steps", "solved": 1.0},
        endpoints={"e": {"base_url": "http://127.0.0.1:9/v1", "concurrency": 8}},
        budget={"dollars": 1.0},
        model={"name": "tiny"},
    )
    plan = make_plan(priced, COUNTS, rates=RATES)
    assert any("reward.steps.judges grade" in note for note in plan.notes)
    assert plan.cost.unknown == ("e/a", "e/b")
    assert any("budget.dollars needs the price" in line for line in plan.over)


def test_steps_graded_by_rules_ask_nobody() -> None:
    graded = {"reward": {**SOLVABLE, "steps": {"rules": SOLVABLE["rules"]}}}
    assert calls(make(**graded, grpo={**GRPO, "flat": "steps", "solved": 1.0}), COUNTS) == []


def test_resampling_asks_more_of_a_quiz() -> None:
    quiz = {"reward": {"quiz": {"writer": "e/w", "reader": "e/r"}}}
    counts = Counts(train=90, validation=0, held_out=1, chars=9, train_sources=90, other_sources=1)
    found = numbers(calls(make(**quiz, grpo={**GRPO, "resample": 2}), counts))
    assert found["questions", "e/w"] == (61, 91)  # 60 to 100 groups, of 90 sources
    assert found["check of the questions", "e/r"] == (122, 182)
    assert found["training", "e/r"] == (480, 800)


def test_resampling_takes_time_and_disk() -> None:
    plain, more = make(grpo=GRPO), make(grpo={**GRPO, "resample": 2})
    sizes = {"size": SIZE, "rates": RATES, "counts": COUNTS}
    one = Pace(settings=plain, size=SIZE, rates=RATES, prompt=100)
    before, after = (pace.estimate(s, **sizes) for s in (plain, more))
    assert after.step[0] == before.step[0]
    # DAPO leaves the groups without spread out: what is trained on stays as much.
    assert after.step[1] == pytest.approx(before.step[1] + 2 * one.sampling(1, 8))
    kept = pace.estimate(make(grpo={**GRPO, "resample": 2, "flat": "keep"}), **sizes)
    trained = one.training(5, 8) - one.training(3, 8)
    assert kept.step[1] == pytest.approx(after.step[1] + trained)
    assert after.disk - before.disk == 20 * 2 * 8 * (25 * 256 + 600 + 500)


THRIFT = {"updates_per_step": 4, "kl_stop": 0.03, "oversample": 2.0}


def test_more_groups_are_sampled_than_judged() -> None:
    """6 of the 3 a step that are judged; the passes may end after the first."""
    plain, more = (make(grpo=g, **judging("e/j", anchors=False)) for g in (GRPO, {**GRPO, **THRIFT}))
    assert numbers(calls(plain, COUNTS)) == numbers(calls(more, COUNTS))
    low, high = (Pace(settings=more, size=SIZE, rates=RATES, prompt=100, share=s) for s in (0.5, 1.0))
    once, often = low.training(3, 8) / 4, high.training(3, 8)
    found = pace.estimate(more, SIZE, RATES, COUNTS).step
    assert found == pytest.approx((low.sampling(6, 8) + once, high.sampling(6, 8) + often))
    few = replace(COUNTS, train=5)
    assert pace.estimate(more, SIZE, RATES, few).step[1] == pytest.approx(high.sampling(5, 8) + often)


def test_what_is_sampled_to_choose_from_is_told() -> None:
    tiny = {"model": {"name": "tiny", "device": "cpu"}}

    def notes(counts: Counts = COUNTS, **grpo: Any) -> str:
        return "\n".join(make_plan(make(**tiny, grpo={**GRPO, **grpo}), counts, rates=RATES).notes)

    told = notes(**THRIFT)
    assert "a step samples 6 groups, and has 3 of them scored" in told
    assert "may end a step's 4 passes early: the low figures count one" in told
    few = notes(replace(COUNTS, train=4), **THRIFT)
    assert "a step samples 4 groups, no more, as there are 4 training prompts" in few
    assert "grpo.oversample" not in notes()
    assert "grpo.kl_stop" not in notes(minibatches=2, kl_stop=0.1)


def test_resampling_waits_for_judges_again() -> None:
    settings = make(**judging("e/j", anchors=False), grpo={**GRPO, "resample": 2})
    counts = Counts(train=40, validation=0, held_out=0, chars=400)
    planned = calls(settings, counts)
    # Eight at once: 3 groups are one round; 5 are one as well, but may come in three waves.
    assert how_long(settings, planned, None, waves=2).judges == (20 * 3.0 + 3.0, 20 * 9.0 + 3.0)


def test_resampling_is_told() -> None:
    tiny = {"model": {"name": "tiny", "device": "cpu"}}
    [note] = [
        n
        for n in make_plan(make(**tiny, grpo={**GRPO, "resample": 2}), COUNTS, rates=RATES).notes
        if "resample" in n
    ]
    assert "up to 2 groups to a step, 40 in all" in note
    assert not any("resample" in n for n in make_plan(make(**tiny, grpo=GRPO), COUNTS, rates=RATES).notes)


def test_memory_grows_with_what_it_is_made_of() -> None:
    rates = Rates(device="cpu", dtype="bfloat16", train=1e9, decode=5e8, bytes=1e9)

    def held(**sections: Any) -> float:
        return memory.memory(make(**sections), SIZE, rates, COUNTS, 1.0)

    base = held()
    batch = 2048
    activation = 2 * (34 * 100 + 4 * 400) + 4 * (600 + 400)
    logits = batch * 2000 * 4 + batch * 2000 * 12
    adapter = 10_000 * 16 * 16
    assert base == 0.5e9 + adapter + 1_000_000 * 2 + batch * 4 * activation + logits
    rows = (1 << 17) // 356  # fewer than 512: that many tokens are in memory at once
    copies = SIZE.linear * 2  # of the layers, while answers are sampled
    caches = rows * 356 * 4 * 2 * 50 * 2 + rows * 2000 * 28 + copies
    many = held(grpo={"tokens_per_micro_batch": 1, "prompts_per_step": 64})
    assert many == 0.5e9 + adapter + 1_000_000 * 2 + max(caches, 356 * (4 * activation + 2000 * 16))
    alone = held(grpo={"tokens_per_micro_batch": 1, "prompts_per_step": 1}, evaluate={"samples": 1})
    assert alone == 0.5e9 + adapter + 1_000_000 * 2 + 356 * (4 * activation + 2000 * 16)
    brief = Counts(train=40, validation=0, held_out=7, chars=40)
    short = make(grpo={"tokens_per_micro_batch": 1, "prompts_per_step": 128}, rollout={"max_tokens": 10})
    at_once = 512 * 20 * 4 * 2 * 50 * 2 + 512 * 2000 * 28 + copies  # never more than 512 rows
    found = memory.memory(short, SIZE, rates, brief, 1.0)
    assert found == 0.5e9 + adapter + 1_000_000 * 2 + at_once
    for changes, tokens in (  # where the micro-batch is larger than what an optimizer step learns from
        ({}, 3 * 8 * 356),
        ({"minibatches": 3, "replay": 1}, 2 * 8 * 356),
        ({"minibatches": 3}, 8 * 356),
        ({"resample": 2}, 5 * 8 * 356),
    ):
        found = held(grpo={"prompts_per_step": 3, "tokens_per_micro_batch": 10_000_000, **changes})
        trained = tokens * (4 * activation + 2000 * 16)
        assert found == pytest.approx(0.5e9 + adapter + 1_000_000 * 2 + trained), changes
    again = base - batch * 3 * activation + batch * 4 * 100 * 2  # one layer whole, the inputs of four
    assert held(model={"gradient_checkpointing": True}) == again
    assert held(model={"adapter": "none"}, grpo={"kl": 0.1}) - held(model={"adapter": "none"}) == 4_000_000


@pytest.mark.parametrize(("tokens", "measured"), [(8192, 9.118e9), (12_288, 13.621e9)])
def test_memory_of_a_card_is_what_was_measured(tokens: int, measured: float) -> None:
    """Qwen3 of 24 layers of width 896 and 151,936 words, head and embedding one, LoRA in bfloat16; the
    program's own share of the card was not measured."""
    model, rates = ModelSettings(name="x"), Rates(device="cuda", dtype="bfloat16", train=1, decode=1, bytes=1)
    size = Size(
        parameters=367_374_336,
        linear=231_211_008,
        adapted=408_576,
        layers=24,
        hidden=896,
        intermediate=2688,
        kv=448,
        vocabulary=151_936,
        context=32_768,
    )
    there = training_memory.held(model, size, rates) - training_memory.program(rates)
    moving = training_memory.training_bytes(model, size, rates, tokens)
    assert there + moving == pytest.approx(measured, rel=0.05)
    assert training_memory.training_bytes(model, size, replace(rates, device="cpu"), tokens) > 2 * moving


def test_memory_and_time_of_a_quantised_base() -> None:
    """The linear layers alone are packed, with a byte of scales for 64 weights of 4 bits; unpacking takes
    time, a token in sampling and twice a micro-batch in training."""
    rates = Rates(device="cpu", dtype="bfloat16", train=1e9, decode=5e8, bytes=1e9)

    def held(**model: Any) -> float:
        return memory.memory(make(model=model), SIZE, rates, COUNTS, 1.0)

    for bits, each in ((4, 0.5 + 1 / 64), (8, 1.0)):
        assert held() - held(adapter="qlora", bits=bits) == pytest.approx(800_000 * (2 - each))
    paces = [
        pace.Pace(settings=make(model={"adapter": a}), size=SIZE, rates=rates, prompt=100)
        for a in ("lora", "qlora")
    ]
    once = 2.0 * 800_000 * (0.5 + 1 / 64 + 2) / 1e9
    assert paces[1].unpacking == pytest.approx(once)
    assert paces[1].sampling(1, 8) - paces[0].sampling(1, 8) == pytest.approx(257 * once)
    assert paces[1].training(1, 8) - paces[0].training(1, 8) == pytest.approx(2 * 2 * once)


def test_disk() -> None:
    def disk(s: Settings) -> float:
        return memory.disk(s.model, s.grpo, s.rollout, SIZE, COUNTS)

    settings = make(grpo={**GRPO, "checkpoint_every": 5, "keep_checkpoints": 3})
    trained = 160_000
    record = 20 * 3 * 8 * (25 * 256 + 600 + 500)
    assert disk(settings) == 4 * trained * 12 + trained * 4 + record
    once = make(grpo={**GRPO, "checkpoint_every": 100})
    assert disk(once) == 2 * trained * 12 + trained * 4 + record


def test_this_machine_is_measured() -> None:
    model = ModelSettings(name="tiny", device="cpu")
    rates = machine.measure(model, model_size(model), sampled=64, trained=2048)
    assert rates.device == "cpu"
    assert rates.dtype in ("float32", "bfloat16")
    assert 1e8 < rates.decode < 1e15
    assert 1e8 < rates.train < 1e15
    assert 1e8 < rates.bytes < 1e13


def test_a_huge_micro_batch_is_planned_for_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of so many rows would take minutes and hundreds of gigabytes."""
    asked: list[int] = []

    def product(x: Any, weight: Any, bias: None) -> Any:
        asked.append(len(x))
        return x

    monkeypatch.setattr("refine_rl.policy.onednn.linear", product)
    grpo = {"tokens_per_micro_batch": 10_000_000, "prompts_per_step": 2000}
    settings = make(model={"name": "tiny", "device": "cpu", "dtype": "float32"}, grpo=grpo)
    plan = make_plan(settings, replace(COUNTS, train=4000))
    assert set(asked) == {machine.MOST_TIMED["cpu"], machine.MAX_ROWS}
    assert plan.memory is not None
    assert plan.memory[0] > 1e12
    assert [note for note in plan.notes if note.startswith("The run does not fit into this machine's")]


def test_a_run_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(recipe_folder("style"))

    def said(installed: float) -> list[str]:
        monkeypatch.setattr(machine, "installed_memory", lambda device: installed)
        return [n for n in make_plan(settings, DEMO, rates=TWO_CORES).notes if "fit" in n]

    assert said(64e9) == []
    assert said(0.5e9)[0].startswith("The run does not fit into this machine's 0.5 GB")
    assert said(1.0e9)[0].startswith("The run may not fit into this machine's 1.0 GB")


def test_the_plan_says_how_many_tokens_a_card_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(recipe_folder("style"))
    card = replace(TWO_CORES, device="cuda")
    monkeypatch.setattr(machine, "installed_memory", lambda device: 80e9)

    def planned(free: float, rates: Rates = card, settings: Settings = settings) -> Any:
        monkeypatch.setattr(training_memory, "free_memory", lambda device: free)
        return make_plan(settings, DEMO, rates=rates)

    def said(plan: Any) -> list[str]:
        return [n for n in plan.notes if "tokens_per_micro_batch" in n]

    (small,) = said(planned(3e9))
    # ((3e9 - 712e6 of program, weights and adapter) / 2 - 805e6 of tiles) / 4 layers of 11,264 bytes = 7,510
    assert small.startswith("grpo.tokens_per_micro_batch: a run would take 7,424, as many as this card's")
    assert planned(3e9).memory[1] <= 3e9
    assert planned(80e9).work.step[1] < planned(2.4e9).work.step[1]  # 768 at once: more launches
    assert said(planned(3e9, TWO_CORES)) == []
    given = settings.model_copy(
        update={"grpo": settings.grpo.model_copy(update={"tokens_per_micro_batch": 9})}
    )
    assert said(planned(3e9, card, given)) == []


# -- what is looked at ----------------------------------------------------------------------------


def test_the_survey_finds_the_mistakes_of_a_run(tmp_path: Path) -> None:
    def look(reward: dict[str, Any]) -> Counts:
        sections = {"task": "Be brief.", "prompts": {"source": "file:p.jsonl"}, "reward": reward}
        return survey(settings_from_dict(sections, tmp_path)).counts

    with pytest.raises(UserError, match=r"p\.jsonl"):
        look({"rules": [{"rule": "words", "max": 9}]})
    lines = [{"prompt": f"question {n} of {n * n}?"} for n in range(30)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = look({"rules": [{"rule": "words", "max": 9}]})
    assert counts.train + counts.validation + counts.held_out == counts.total == 30
    assert look({"judges": ["ollama/x"], "rubric": "Be kind."}) == counts
    with pytest.raises(SettingsError, match="there is no endpoint `olama`; did you mean `ollama`"):
        look({"judges": ["olama/x"]})
    with pytest.raises(SettingsError, match="nothing says what is good"):
        look({})
    with pytest.raises(UserError, match="has no text `source`"):
        look({"quiz": {"writer": "ollama/x"}})


def test_the_survey_asks_no_writer() -> None:
    found = survey(
        make(writer={"model": "openrouter/w"}, reward={"judges": ["openrouter/j"], "rubric": "write"})
    )
    assert (found.prompts, found.counts.train) == ((), 64)


def test_calls_of_a_probe() -> None:
    prompts = quiz_prompts()
    settings = make(
        reward={"judges": ["e/j"], "quiz": {"writer": "e/w", "reader": "e/r"}}, judge={"repeats": 2}
    )
    found = probe_calls(settings, count_prompts(prompts, settings.reward.quiz), prompts)
    assert [(c.model, c.stage, c.high) for c in found] == [
        ("e/j", "probe", 8),
        ("e/w", "questions", 4),
        ("e/r", "check of the questions", 8),
        ("e/r", "probe", 32),
    ]


def test_wilson_interval() -> None:
    """R 4: prop.test(2, 10, correct = FALSE) gives 0.05668 to 0.50984."""
    assert wilson(2, 10) == pytest.approx((0.05668, 0.50984), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)
    assert wilson(0, 1)[0] == 0.0
