"""What reward functions may return, and what TRL's form is given."""

from __future__ import annotations

import inspect
import itertools
import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from make import prompt, scored, trajectory
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.functions.answers import read_list, read_one
from refine_rl.rewards.functions.trl import GIVEN, TrainerState, trainer_state
from refine_rl.run.records import trajectory_from, trajectory_record
from refine_rl.settings import Settings
from refine_rl.training.grpo.advantages import gdpo
from refine_rl.types import Score

PROMPT = prompt(answer="hi")


def build(*functions: Callable[..., Any], **reward: Any) -> CombinedReward:
    return build_reward(Settings.model_validate({"task": "t", "reward": reward}), functions)


def scores(reward: CombinedReward, *texts: str, state: TrainerState | None = None) -> list[Score]:
    with trainer_state(state) if state is not None else nullcontext():
        return scored(reward, PROMPT, *texts)


def numbers() -> list[Any]:
    import torch

    half = torch.tensor(0.5)
    return [
        *(0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5")),
        *(half, half.to(torch.bfloat16), torch.tensor(0.5, requires_grad=True)),
    ]


def test_numbers_of_every_kind_are_plain_floats() -> None:
    for number in numbers():
        for answer in (number, Score(value=number)):
            score = read_one(answer)
            assert (score.value, type(score.value)) == (0.5, float), number
    assert type(read_one(True).value) is float
    assert [s.value for s in read_list(np.array([0.5, 1.0]), 2)] == [0.5, 1.0]
    assert [s.value for s in read_list((x for x in (0.5, 1)), 2)] == [0.5, 1.0]
    assert [s.value for s in read_list(deque([0.5, 1]), 2)] == [0.5, 1.0]


def test_a_score_of_any_number_can_be_written() -> None:
    for number in numbers():
        (score,) = scores(build(lambda completion, n=number: Score(value=n, explanation=n)), "hi")
        assert trajectory_record(trajectory("p1"), score)["reward"] == 0.5


class Unshowable:
    def __repr__(self) -> str:
        raise KeyError("no")


class WithoutNumber:
    def __float__(self) -> float:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (1e305, "returned 1e+305, which is too large to be averaged"),
        (10**400, "which is too large to be averaged"),
        (1j, "returned 1j, not a finite number"),
        (np.array([0.5]), "returned array([0.5]), not a finite number"),
        (Decimal("NaN"), "returned Decimal('NaN'), not a finite number"),
        (bytearray(b"1"), "returned bytearray(b'1'), not a finite number"),
        (Unshowable(), "not a finite number"),
        (WithoutNumber(), "not a finite number"),
        (["x" * 1000] * 1000, "not a finite number"),
    ],
)
def test_what_is_no_number_is_named_in_a_line(answer: Any, why: str) -> None:
    score = read_one(answer)
    assert score.status == "missing"
    assert why in score.explanation
    assert len(score.explanation) < 160


def test_a_score_that_is_no_score() -> None:
    status: Any = "perfect"
    assert "whose status is 'perfect'" in read_one(Score(value=1.0, status=status)).explanation
    huge: Any = Fraction(10**302)
    assert "a Score whose value is Fraction(" in read_one(Score(value=huge)).explanation


def endless() -> Iterator[float]:
    for count in itertools.count():
        assert count < 3, "read beyond one more than was wanted"
        yield 1.0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({1.0, 2.0}, "returned {1.0, 2.0}, which has no order: give a list of 2 numbers"),
        (frozenset({1.0, 2.0}), "which has no order"),
        ({"a": 1.0, "b": 2.0}, "which has no order"),
        ({"a": 1.0, "b": 2.0}.values(), "which has no order"),
        (Score(value=1.0), "not a list of numbers"),
        (None, "returned None, not a list of numbers"),
        ([1.0], "returned 1 numbers for 2 completions"),
        ([1.0] * 9, "returned 9 numbers for 2 completions"),
        (b"ab", "not a list of numbers"),
    ],
)
def test_what_is_no_list_in_an_order(answer: Any, why: str) -> None:
    for score in read_list(answer, 2):
        assert why in score.explanation


def test_an_endless_answer_is_read_no_further_than_needed() -> None:
    assert read_list(endless(), 2)[0].explanation == "returned more than 2 numbers for 2 completions"


# -- what does not apply --------------------------------------------------------------------------


def on_long(completions: list[str]) -> list[float | None]:
    return [len(text) / 10 if len(text) > 2 else None for text in completions]


def half(completion: str) -> float:
    return 0.5


def never(completions: list[str]) -> list[None]:
    return [None for _ in completions]


def test_none_leaves_the_component_out_of_the_member() -> None:
    reward = build(half, on_long, weights={"on_long": 2.0})
    long, short = scores(reward, "hello", "hi")
    assert (long.value, long.breakdown) == (0.5 + 2 * 0.5, {"half": 0.5, "on_long": 0.5})
    assert (short.status, short.value, short.breakdown) == ("scored", 0.5, {"half": 0.5})
    assert short.explanation == "half: 0.5\non_long: does not apply (returned None)"
    product = build(half, on_long, combine="product")
    assert [s.value for s in scores(product, "hello", "hi")] == [0.25, 0.5]


def test_where_nothing_applies_nothing_is_said() -> None:
    (score,) = scores(build(never), "hi")
    assert (score.status, score.explanation) == ("missing", "never: does not apply (returned None)")


def test_a_component_that_does_not_apply_is_no_failure_elsewhere() -> None:
    reward = build(half, on_long, success=0.5)
    assert [reward.success(s) for s in scores(reward, "hello", "hi")] == [True, True]
    groups = [scores(reward, "hello", "hi", "hallo!")]
    found = gdpo(groups, reward.weights)[0]  # `half` says nothing, `on_long` compares two of them
    assert found[1] == 0.0
    assert found[0] is not None
    assert found[0] == pytest.approx(-(found[2] or 0.0))
    assert found[0] < 0


def test_a_gate_that_does_not_apply_is_open() -> None:
    from refine_rl.rewards.functions.answers import NOT_APPLICABLE
    from refine_rl.rewards.judges.gate import _unseen

    assert _unseen({"a": NOT_APPLICABLE, "b": Score(value=1.0)}) is None
    assert _unseen({"a": NOT_APPLICABLE, "b": Score(value=0.0)}) is not None


def test_none_alone_is_a_forgotten_return() -> None:
    (score,) = scores(build(half, lambda completion: None), "hi")
    assert score.status == "missing"


# -- what TRL gives -------------------------------------------------------------------------------


def test_the_names_are_those_that_trl_gives() -> None:
    """TRL's own source says which: a new one should not go unseen."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    source = textwrap.dedent(inspect.getsource(trainer.GRPOTrainer._calculate_rewards))
    given = {line.split('"')[1] for line in source.splitlines() if line.strip().startswith('reward_kwargs["')}
    assert given - {"environments"} == GIVEN


def test_a_function_gets_the_state_of_training() -> None:
    def later(completions: list[str], trainer_state: Any) -> list[float]:
        trainer_state.global_step += 1  # its own
        return [trainer_state.global_step / trainer_state.max_steps for _ in completions]

    reward = build(later)
    reward.check_prompt(PROMPT)  # the prompt's data need not have it
    state = TrainerState(global_step=3, max_steps=8, epoch=0.5)
    for _ in range(2):
        assert [s.value for s in scores(reward, "a", "b", state=state)] == [0.5, 0.5]
    assert (
        scores(build(lambda completions, **rest: [rest["trainer_state"].epoch]), "a", state=state)[0].value
        == 0.5
    )


def test_what_a_function_logs_stands_beside_its_scores() -> None:
    def logs(completions: list[str], log_metric: Any, log_extra: Any) -> list[float]:
        log_metric("length", np.float32(2.0))
        log_metric("length", 4)
        log_extra("first", [text[0] for text in completions])
        return [1.0 for _ in completions]

    a, b = scores(build(half, logs), "ab", "cd")
    assert a.breakdown == {"half": 0.5, "logs": 1.0, "logged/length": 3.0}
    assert a.value == b.value == 1.5
    assert [s.explanation for s in (a, b)] == [
        "half: 0.5\nlogs: 1; first: 'a'",
        "half: 0.5\nlogs: 1; first: 'c'",
    ]
    record = trajectory_record(trajectory("p1"), a)
    assert trajectory_from({**record, "spans": []}, "p1", ())[1] == a


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (lambda metric, extra: metric("x", "y"), "log_metric('x', ...) takes a finite number, not 'y'"),
        (lambda metric, extra: extra("x", [1]), "log_extra('x', ...) takes 2 values, one a completion"),
        (lambda metric, extra: extra("x", itertools.count()), "takes 2 values"),
    ],
)
def test_what_cannot_be_logged_is_a_missing_score(log: Any, why: str) -> None:
    def logs(completions: list[str], log_metric: Any, log_extra: Any) -> list[float]:
        log(log_metric, log_extra)
        return [1.0, 1.0]

    for score in scores(build(logs), "a", "b"):
        assert score.status == "missing"
        assert why in score.explanation


def test_trls_own_rewards_work_as_they_are() -> None:
    rewards = pytest.importorskip("trl.rewards")
    short = rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=5)
    assert [s.value for s in scores(build(short), "a", "b")] == [0.0, 0.0]
