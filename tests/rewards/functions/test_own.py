"""Reward functions: both forms, where they come from, and everything that can go wrong in them."""

from __future__ import annotations

import asyncio
import math
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from make import prompt, trajectory
from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.functions.answers import NOT_APPLICABLE
from refine_rl.rewards.functions.own import FunctionReward, function_reward, load_function
from refine_rl.types import Played, Score, Segment, Trajectory

PROMPT = prompt(system="Be kind.", answer="hi", points=2)


def attempt(text: str, member: int = 0) -> Trajectory:
    return trajectory(PROMPT, text, member=member, given=(1, 2), tokens=(len(text), 3))


def scores(reward: FunctionReward, *texts: str) -> list[Score]:
    return asyncio.run(reward.score_group(PROMPT, [attempt(t, i) for i, t in enumerate(texts)]))


def values(reward: FunctionReward, *texts: str) -> list[float | None]:
    return [score.value for score in scores(reward, *texts)]


def one(prompt: str, completion: str, points: int, bonus: float = 0.5) -> float:
    return points * len(completion) + bonus if prompt == "Say hi." else -1.0


async def one_async(completion: str) -> float:
    await asyncio.sleep(0)
    return len(completion)


def many(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    assert set(kwargs) == {
        "prompts",
        "completion_ids",
        "points",
        "trainer_state",
        "log_metric",
        "log_extra",
    }
    return [
        float(a in c) * p + ids[0]
        for c, a, p, ids in zip(completions, answer, kwargs["points"], kwargs["completion_ids"], strict=True)
    ]


async def many_async(prompts: list[str], completions: list[str]) -> list[float | None]:
    return [len(p) + len(c) if c else None for p, c in zip(prompts, completions, strict=True)]


class Counting:
    async def __call__(self, completion: str) -> float:
        return len(completion)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (one, [4.5, 2.5]),
        (partial(one, bonus=0.0), [4.0, 2.0]),
        (one_async, [2.0, 1.0]),
        (Counting(), [2.0, 1.0]),
        (lambda completion: one_async(completion), [2.0, 1.0]),
        (lambda prompt, completion, **data: data["points"], [2.0, 2.0]),
        (many, [4.0, 1.0]),
        (many_async, [9.0, 8.0]),
        (lambda completions: np.array([0.25, 0.5], dtype=np.float32), [0.25, 0.5]),
        (lambda completion: completion == "hi", [1.0, 0.0]),
    ],
)
def test_each_form(function: Any, expected: list[float]) -> None:
    assert values(function_reward(function), "hi", "x") == expected


def test_names() -> None:
    assert [function_reward(f).name for f in (one, partial(one), Counting(), lambda completion: 1)] == [
        "one",
        "one",
        "Counting",
        "function",
    ]
    assert function_reward(one, name="other").name == "other"


def test_a_score_is_taken_as_it_is() -> None:
    score = Score(value=0.0, status="invalid", explanation="not parsable")
    assert scores(function_reward(lambda completion: score), "hi") == [score]


def test_messages_are_the_conversational_form() -> None:
    seen = []

    def look(prompts: Any, completions: Any) -> list[float]:
        seen.append((prompts, completions))
        return [1.0]

    values(function_reward(look, messages=True), "hi")
    assert seen == [([list(PROMPT.messages)], [[{"role": "assistant", "content": "hi"}]])]


def test_a_game_is_seen_whole_by_who_asks_for_it() -> None:
    played = Played(rewards=(0.0, 1.0), end="done")
    segments = [
        Segment(token_ids=(1, 2), trainable=False),
        Segment(token_ids=(3,), trainable=True, logprobs=(-1.0,)),
        Segment(token_ids=(4, 5), trainable=False),
        Segment(token_ids=(6,), trainable=True, logprobs=(-1.0,)),
    ]
    game = replace(trajectory(PROMPT, "25", "higher", "31", "right", segments=segments), played=played)

    def one_of(completion: str, messages: Any, trajectory: Any) -> float:
        assert (completion, len(messages)) == ("25\n\n31", len(PROMPT.messages) + 4)
        assert messages[-1] == {"role": "user", "content": "right"}
        return len(messages) + 10 * sum(trajectory.played.rewards)

    def all_of(completions: Any, messages: Any, trajectory: Any, completion_ids: Any) -> list[float]:
        assert (completions, completion_ids) == (["25\n\n31"], [[3, 6]])
        return [len(m) + 10 * sum(t.played.rewards) for m, t in zip(messages, trajectory, strict=True)]

    for function in (one_of, all_of):
        (score,) = asyncio.run(function_reward(function).score_group(PROMPT, [game]))
        assert score.value == len(PROMPT.messages) + 4 + 10, score.explanation


def test_a_function_sees_what_trl_gives_it() -> None:
    trl_rewards = pytest.importorskip("trl.rewards.format_rewards")
    reward = function_reward(trl_rewards.think_format_reward, messages=True)
    assert values(reward, "<think>\nwell\n</think>\nhi", "hi") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (math.nan, "returned nan, not a finite number"),
        (math.inf, "returned inf"),
        (None, "returned None, not a finite number"),
        ("0.5", "returned '0.5', not a finite number"),
        ([1.0, 2.0], "not a finite number"),
    ],
)
def test_no_number_is_missing(answer: Any, words: str) -> None:
    (score,) = scores(function_reward(lambda completion: answer), "hi")
    assert score.status == "missing"
    assert words in score.explanation


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0], "returned 1 numbers for 2 completions"),
        (1.0, "returned 1.0, not a list of numbers"),
        ("ab", "returned 'ab', not a list of numbers"),
    ],
)
def test_a_wrong_list_makes_the_group_missing(answer: Any, words: str) -> None:
    for score in scores(function_reward(lambda completions: answer), "hi", "x"):
        assert score.status == "missing"
        assert words in score.explanation


def test_none_in_a_list_does_not_apply() -> None:
    first, second = scores(function_reward(lambda completions: [None, 0.5]), "hi", "x")
    assert first is NOT_APPLICABLE
    assert second.value == 0.5


def deep(n: int) -> float:
    return 1 / 0 if n == 0 else deeper(n - 1)


def deeper(n: int) -> float:
    return deep(n)


def failing(completion: str) -> float:
    return deep(10) if completion == "bad" else 1.0


def test_an_exception_is_missing_with_the_users_frames() -> None:
    good, bad = scores(function_reward(failing), "good", "bad")
    assert good.value == 1.0
    assert bad.status == "missing"
    assert bad.explanation.startswith("ZeroDivisionError: division by zero\n")
    assert "return deep(10) if completion" in bad.explanation
    assert "1 / 0" in bad.explanation
    assert "... 16 frames ..." in bad.explanation
    assert "rewards/functions.py" not in bad.explanation


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("no")])
def test_neither_form_lets_an_exception_through(error: BaseException) -> None:
    def fail(completion: str) -> float:
        raise error

    async def fail_async(completion: str) -> float:
        raise error

    def fail_list(completions: list[str]) -> list[float]:
        raise error

    for function in (fail, fail_async, fail_list):
        assert [s.status for s in scores(function_reward(function), "a", "b")] == ["missing", "missing"]


def test_async_calls_of_a_group_overlap() -> None:
    waiting = 0

    async def meet(completion: str) -> float:
        nonlocal waiting
        waiting += 1
        while waiting < 3:
            await asyncio.sleep(0)
        return 1.0

    reward = function_reward(meet)
    group = [attempt(t, i) for i, t in enumerate("abc")]

    async def score() -> list[Score]:
        return await asyncio.wait_for(reward.score_group(PROMPT, group), timeout=60)

    assert [s.value for s in asyncio.run(score())] == [1.0, 1.0, 1.0]


def positional(completion: str, /) -> float:
    return 1.0


@pytest.mark.parametrize(
    "function",
    [
        lambda text: 1.0,
        lambda prompt: 1.0,
        lambda **kwargs: 1.0,
        lambda prompt, completions: [1.0],
        positional,
    ],
)
def test_a_form_that_cannot_be_told_is_refused(function: Any) -> None:
    with pytest.raises(SettingsError, match=r"def f\(prompt, completion\)"):
        function_reward(function)


def test_data_that_a_function_needs_is_named() -> None:
    function_reward(one).check_prompt(PROMPT)
    with pytest.raises(UserError, match="prompt p1 has no data `source`; it has `answer`, `points`"):
        function_reward(lambda completion, source: 1.0).check_prompt(PROMPT)
    with pytest.raises(UserError, match="no data `source`"):
        function_reward(lambda completions, source: [1.0]).check_prompt(PROMPT)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_file_is_loaded_with_its_neighbours_and_afresh_each_time(tmp_path: Path) -> None:
    write(tmp_path, "helper_of_rewards.py", "LIMIT = 3\n")
    source = (
        "from helper_of_rewards import LIMIT\n"
        "def short(completion):\n    return {} + float(len(completion) < LIMIT)\n"
    )
    write(tmp_path, "rewards.py", source.format(1))
    assert values(function_reward(load_function("rewards.py:short", tmp_path, {})), "hi", "hello") == [
        2.0,
        1.0,
    ]
    write(tmp_path, "rewards.py", source.format(5))
    assert values(function_reward(load_function("rewards.py:short", tmp_path, {})), "hi") == [6.0]
    assert str(tmp_path) not in sys.path


def test_functions_of_one_file_share_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "rewards.py",
        "seen = []\ndef a(completion): seen.append(1)\ndef b(completion): return len(seen)\n",
    )
    files: dict[Path, Any] = {}
    a, b = (load_function(f"rewards.py:{name}", tmp_path, files) for name in "ab")
    a("x")
    assert b("x") == 1


def test_a_failure_in_a_file_shows_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "rewards.py", "def wrong(completion):\n    return completion.size\n")
    (score,) = scores(function_reward(load_function("rewards.py:wrong", tmp_path, {})), "hi")
    assert f'File "{path}", line 2, in wrong' in score.explanation
    assert "return completion.size" in score.explanation


def test_a_function_of_an_installed_module() -> None:
    assert load_function("textwrap:dedent", Path(), {}) is textwrap.dedent


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rewards.py", 'write "FILE.py:NAME" or "module:NAME"'),
        (":short", 'write "FILE.py:NAME"'),
        ("reward.py:short", "did you mean `rewards.py`?"),
        ("rewards.py:shirt", "rewards.py has no function `shirt`; did you mean `short`?"),
        ("rewards.py:NUMBER", "has no function `NUMBER`"),
        ("broken.py:f", 'broken.py", line 1\n    def f(:'),
        ("exits.py:f", "exits.py cannot be loaded: SystemExit"),
        ("no_such_module_here:f", "`no_such_module_here` cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_found_is_named(tmp_path: Path, spec: str, words: str) -> None:
    write(tmp_path, "rewards.py", "NUMBER = 1\ndef short(completion):\n    return 1.0\n")
    write(tmp_path, "broken.py", "def f(:\n")
    write(tmp_path, "exits.py", "raise SystemExit\n")
    with pytest.raises(SettingsError) as caught:
        load_function(spec, tmp_path, {})
    assert words in str(caught.value)
