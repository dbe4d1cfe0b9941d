"""What a plan says of a teacher: its weights, the answers that it reads, the calls of its server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from refine_rl.plan.counts import Counts
from refine_rl.plan.teacher import answers_taught, size_of_teacher, teacher_bytes, words_on_teacher
from refine_rl.settings import Settings

COUNTS = Counts(train=20, validation=4, held_out=5, chars=40.0)
HTTP = "http://127.0.0.1:8000/v1"


def settings(teacher: dict[str, Any] | None, **tables: Any) -> Settings:
    return Settings.model_validate(
        {
            "task": "x",
            "grpo": {"steps": 6, "prompts_per_step": 3, "validate_every": 3},
            "rollout": {"group_size": 4, "max_tokens": 8},
            "evaluate": {"samples": 2},
            **({} if teacher is None else {"teacher": teacher}),
            **tables,
        }
    )


def test_a_teacher_here_takes_its_weights_and_reads_every_answer(make_model: Callable[..., Path]) -> None:
    here = {"model": str(make_model())}
    it = settings(here)
    size = size_of_teacher(it)
    assert size is not None
    assert teacher_bytes(it, 2) == 2 * size.parameters
    trained, validated, compared = 6 * 3 * 4, 3 * 4 * 2, 2 * 5 * 3
    assert answers_taught(it, COUNTS) == 2 * (trained + validated + compared,)
    assert answers_taught(it, COUNTS, second=True) == 2 * (trained + validated + 5 * 3,)  # base is scored
    rewarded = settings(here, reward={"rules": [{"rule": "words", "max": 3}]})
    assert answers_taught(rewarded, COUNTS) == 2 * (trained + validated,)


def test_nearness_is_asked_of_rivals_and_of_the_pool() -> None:
    """Two ways from 4 x 3 answers to prompts of training, and the best of 4 to each of 2 answers to 5."""
    it = settings(
        {"model": "big", "base_url": HTTP},
        evaluate={"samples": 2, "rivals": ["best_of_n"], "best_of": 4},
        prompts={"pool": "informative", "probe": 2},
    )
    plain = settings({"model": "big", "base_url": HTTP})
    more = 2 * 20 + 5 * 2 + 5 * 2 * 4  # the probe; two chosen answers to each prompt, and none is greedy
    assert answers_taught(it, COUNTS) == tuple(n + more for n in answers_taught(plain, COUNTS))


def test_every_seed_asks_and_what_is_repeated_is_in_the_high_figure() -> None:
    counts = Counts(train=20, validation=5, held_out=5, chars=40.0)
    it = settings(
        {"model": "big", "base_url": HTTP},
        reward={"rules": [{"rule": "words", "max": 3}, {"rule": "chars", "weight": 0.0}]},
        evaluate={"samples": 2, "on_drift": "rollback"},
        grpo={"steps": 9, "prompts_per_step": 3, "validate_every": 2},
    )
    low = 9 * 12 + 6 * 5 * 2
    high = low + 6 * 12 + 3 * 5 * 2
    assert answers_taught(it, counts) == (low, high)
    (line,) = words_on_teacher(it, counts, None)
    assert f": {low}–{high} calls, " in line
    (line,) = words_on_teacher(it, counts, None, seeds=3)
    assert f": {3 * low}–{3 * high} calls, {3 * low * 14:,} to {3 * high * 18:,} tokens." in line


def test_what_is_not_here_takes_nothing_here_and_is_told() -> None:
    none = settings(None)
    assert (size_of_teacher(none), teacher_bytes(none, 2)) == (None, 0.0)
    assert list(words_on_teacher(none, COUNTS, None)) == []
    served = settings({"model": "big", "base_url": HTTP})
    assert teacher_bytes(served, 2) == 0.0
    (line,) = words_on_teacher(served, COUNTS, None)
    assert line.startswith(f"The teacher big is asked at {HTTP}: 126 calls, 1,764 to 2,268 tokens.")
    (line,) = words_on_teacher(settings({"model": "nobody/has-it"}), COUNTS, None)
    assert line.startswith("The teacher nobody/has-it: its configuration is not on this machine")


def test_the_policy_as_its_own_teacher_takes_no_memory(make_model: Callable[..., Path]) -> None:
    model = {"name": str(make_model())}
    it = settings({"model": "self", "shown": "best"}, model=model)
    size = size_of_teacher(it)
    assert size is not None
    assert teacher_bytes(it, 2) == 0.0
    assert answers_taught(it, COUNTS) == 2 * (6 * 3 * 4,)
    (line,) = words_on_teacher(it, COUNTS, None)
    assert line.startswith(
        "The teacher is the policy itself, shown its group's best answer: it reads up to 72 "
    )
