"""Components into one reward: sums, products, penalties, names, weights, failures; sanity cases."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from make import prompt, trajectory
from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.overlong import dapo_penalty, linear_penalty
from refine_rl.rewards.sanity import check_sanity
from refine_rl.settings import Settings
from refine_rl.types import Played, Prompt, Score

PROMPT = prompt(answer="hi")


def build(
    *functions: Any, folder: Path | None = None, max_tokens: int = 100, **reward: Any
) -> CombinedReward:
    settings = Settings.model_validate(
        {"task": "t", "reward": reward, "rollout": {"max_tokens": max_tokens}, "folder": folder or Path()}
    )
    return build_reward(settings, functions)


def score(reward: CombinedReward, text: str = "hi", tokens: int = 1) -> Score:
    return asyncio.run(reward.score_group(PROMPT, [trajectory(PROMPT, text, tokens=tokens)]))[0]


def half(completion: str) -> float:
    return 0.5


def quarter(completion: str) -> float:
    return 0.25


def three(completion: str) -> float:
    return 3.0


def invalid(completion: str) -> Score:
    return Score(value=0.1, status="invalid", explanation="no answer tag")


def broken(completion: str) -> float:
    raise ValueError("oh")


def test_sum_is_literal() -> None:
    reward = build(
        half, three, rules=[{"rule": "words", "max": 1, "weight": 0.5}], weights={"three": -1.0, "half": 2.0}
    )
    assert reward.component_names == ("words", "half", "three")
    assert reward.weights == {"words": 0.5, "half": 2.0, "three": -1.0}
    result = score(reward)
    assert result.value == 0.5 * 1 + 2 * 0.5 - 3
    assert result.breakdown == {"words": 1.0, "half": 0.5, "three": 3.0}
    assert result.explanation == "words: 1 word, wanted at most 1\nhalf: 0.5\nthree: 3"


def test_product_raises_to_the_weight() -> None:
    result = score(build(half, quarter, combine="product", weights={"half": 3.0, "quarter": 0.5}))
    assert result.value == pytest.approx(0.5**3 * 0.25**0.5)
    assert result.breakdown == {"half": 0.5, "quarter": 0.25}


def test_product_refuses_what_is_not_a_share() -> None:
    result = score(build(half, three, combine="product"))
    assert result.status == "missing"
    assert result.explanation.startswith("three must be in [0, 1] in a product")
    assert result.breakdown == {"half": 0.5, "three": 3.0}


def test_a_sum_that_overflows_is_missing() -> None:
    result = score(build(three, lambda completion: 1.5, weights={"three": 1e308}))
    assert result.status == "missing"
    assert result.explanation.startswith("the sum is too large")


def test_a_missing_component_makes_the_whole_missing() -> None:
    result = score(build(half, broken, quarter))
    assert (result.status, result.value) == ("missing", None)
    assert result.breakdown == {"half": 0.5, "quarter": 0.25}
    # What failed stands first: whoever shows the beginning shows the reason.
    assert result.explanation.startswith("broken: missing: ValueError: oh\n")
    assert 'raise ValueError("oh")' in result.explanation
    assert result.explanation.endswith("\nhalf: 0.5\nquarter: 0.25")


def test_a_trajectory_whose_world_failed_is_missing_whatever_scores_it() -> None:
    """Tools pay nothing themselves, so no component of theirs would say it. No other is asked about it."""
    seen = []

    def look(completion: str) -> float:
        seen.append(completion)
        return 1.0

    failed = Played(rewards=(0.0,), end="failed", why="turn 2: late")
    group = [trajectory(PROMPT, text, tokens=1, member=m) for m, text in enumerate("abc")]
    group[1] = replace(group[1], played=failed)
    scores = asyncio.run(build(look).score_group(PROMPT, group))
    assert seen == ["a", "c"]
    assert [s.value for s in scores] == [1.0, None, 1.0]
    assert scores[1].explanation == "the world failed: turn 2: late"
    alone = asyncio.run(build(look).score_group(PROMPT, [group[1]]))
    assert [s.status for s in alone] == ["missing"]
    assert seen == ["a", "c"]


def test_an_invalid_component_enters_with_its_floor() -> None:
    reward = build(half, invalid)
    result = score(reward)
    assert (result.status, result.value) == ("invalid", 0.6)
    assert result.explanation == "half: 0.5\ninvalid: invalid: no answer tag"
    assert not reward.success(result)


@pytest.mark.parametrize(
    ("threshold", "words", "three_weight", "expected"),
    [
        (1.0, 1, 1.0, True),
        (1.0, 3, 1.0, False),
        (0.5, 3, 1.0, True),
        (1.0, 1, -1.0, True),
        (4.0, 1, 1.0, False),
    ],
)
def test_success_is_every_wanted_component_at_the_threshold(
    threshold: float, words: int, three_weight: float, expected: bool
) -> None:
    reward = build(
        three,
        rules=[{"rule": "words", "max": 2}],
        success=threshold,
        weights={"three": three_weight},
        combine="sum",
    )
    assert reward.success(score(reward, "hi " * words)) is expected


def test_a_component_that_only_takes_away_is_no_part_of_success() -> None:
    reward = build(half, rules=[{"rule": "words", "max": 2}], weights={"half": -1.0})
    assert reward.success(score(reward))


@pytest.mark.parametrize(
    ("n", "penalty"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (101, -1.0)]
)
def test_dapo_penalty(n: int, penalty: float) -> None:
    assert dapo_penalty(n, limit=100, buffer=20) == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("n", "penalty"), [(0, 0.0), (10, 0.0), (11, -0.1), (20, -1.0), (110, -10.0), (500, -10.0)]
)
def test_linear_penalty(n: int, penalty: float) -> None:
    assert linear_penalty(n, limit=10) == pytest.approx(penalty)


def test_the_penalty_is_added_after_the_product_and_kept_raw() -> None:
    reward = build(half, combine="product", overlong={"weight": 0.5}, max_tokens=50)  # buffer 10
    result = score(reward, tokens=45)
    assert result.value == pytest.approx(0.5 - 0.5 * 0.5)
    assert result.breakdown == {"half": 0.5, "overlong": -0.5}
    assert result.explanation == "half: 0.5\noverlong: -0.5"
    assert score(reward, tokens=40).breakdown["overlong"] == 0.0
    assert reward.component_names == ("half",)
    assert reward.weights == {"half": 1.0, "overlong": 0.5}
    assert reward.top == 1.0


@pytest.mark.parametrize(
    ("unit", "limit", "penalty"), [("words", 2, -0.5), ("chars", 4, -0.25), ("tokens", 20, -1.0)]
)
def test_the_penalty_counts_in_its_unit(unit: str, limit: int, penalty: float) -> None:
    reward = build(half, overlong={"kind": "linear", "unit": unit, "limit": limit})
    assert score(reward, "a b c", tokens=40).breakdown["overlong"] == pytest.approx(penalty)


@pytest.mark.parametrize(
    "overlong",
    [
        {"kind": "linear"},
        {"kind": "linear", "limit": 100},
        {"limit": 200, "buffer": 50},
        {"buffer": 101},
    ],
)
def test_a_penalty_that_cannot_be_is_refused(overlong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"reward\.overlong"):
        build(half, overlong=overlong)


def test_names_are_made_to_differ() -> None:
    rules = [
        {"rule": "words", "max": 1},
        {"rule": "words", "max": 2},
        {"rule": "words", "max": 3, "name": "words-2"},
    ]
    reward = build(half, half, rules=rules, weights={"words-3": 2.0})
    assert reward.component_names == ("words", "words-3", "words-2", "half", "half-2")
    assert reward.weights["words-3"] == 2.0


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({}, 'rules = [{rule = "words", max = 20}]'),
        ({"rules": [{"rule": "word", "max": 1}]}, "reward.rules, entry 1 (`word`): there is no rule `word`"),
        ({"functions": ["gone.py:f"]}, "reward.functions, entry 1: there is no file"),
        ({"rules": [{"rule": "words", "max": 1}], "weights": {"word": 2.0}}, "did you mean `words`?"),
        (
            {"rules": [{"rule": "words", "max": 1, "weight": 3.0}], "weights": {"words": 2.0}},
            "keep one of them",
        ),
        (
            {"rules": [{"rule": "words", "max": 1, "weight": -1.0}], "combine": "product"},
            "in a product it must be",
        ),
        (
            {"rules": [{"rule": "words", "max": 1, "name": "a"}, {"rule": "chars", "max": 1, "name": "a"}]},
            "given twice",
        ),
        ({"rules": [{"rule": "words", "max": 1, "name": "overlong"}]}, "kept for the penalty"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, reward: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(folder=tmp_path, **reward)
    assert words in str(caught.value)


def test_functions_from_a_file_by_table_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def a(completion): return 1.0\ndef b(prompts, completions): return [len(p) for p in prompts]\n",
        encoding="utf-8",
    )
    table = {"function": "rewards.py:b", "weight": 0.5, "name": "turns", "messages": True}
    reward = build(folder=tmp_path, functions=["rewards.py:a", table])
    assert score(reward).breakdown == {"a": 1.0, "turns": 1.0}
    assert score(reward).value == 1.5


def test_data_is_checked_for_every_prompt() -> None:
    reward = build(lambda completion, answer: 1.0, rules=[{"rule": "equals", "data": "answer"}])
    reward.check_data([PROMPT])
    other = prompt(2, origin="file:x.jsonl:2")
    with pytest.raises(UserError, match=r"prompt p2 \(file:x.jsonl:2\) has no data `answer`"):
        reward.check_data([PROMPT, other])


def test_a_component_that_breaks_its_promise_is_missing() -> None:
    class Short:
        name = "short"

        def check_prompt(self, prompt: Prompt) -> None: ...

        async def score_group(self, prompt: Prompt, trajectories: Any) -> list[Score]:
            return []

    result = score(CombinedReward(components=(Short(),), weights={"short": 1.0}))
    assert result.status == "missing"
    assert "0 scores for 1 trajectories" in result.explanation


def sanity(reward: CombinedReward, *cases: dict[str, Any]) -> None:
    check_sanity(
        reward, Settings.model_validate({"task": "t", "reward": {"sanity": list(cases)}}).reward.sanity
    )


def test_sanity_names_every_case_that_is_ordered_wrongly() -> None:
    reward = build(rules=[{"rule": "words", "max": 2}, {"rule": "equals", "data": "answer"}])
    right = {"prompt": "q", "good": "yes", "bad": "no no no no", "data": {"answer": "yes"}}
    same = {"prompt": "q", "good": "yes", "bad": "Yes!", "data": {"answer": "yes"}}
    worse = {"prompt": "q", "good": "yes", "bad": "no", "data": {"answer": "no"}}
    sanity(reward, right)
    with pytest.raises(UserError) as caught:
        sanity(reward, right, same, worse)
    message = str(caught.value)
    assert "case 1:" not in message
    assert "case 2: the bad completion scores at least as high" in message
    assert (
        "good 2.000 (words 1.000, equals 1.000)  'yes'\n  bad  2.000 (words 1.000, equals 1.000)  'Yes!'"
        in message
    )
    assert "case 3:" in message


def test_sanity_shows_a_traceback_and_missing_data() -> None:
    with pytest.raises(
        UserError, match="case 1: its good completion cannot be scored:\nbroken: missing: ValueError: oh"
    ):
        sanity(build(broken), {"prompt": "q", "good": "a", "bad": "b"})
    with pytest.raises(
        UserError, match=r"\(reward\.sanity, case 1\) has no data `answer`.*A sanity case takes it in `data`"
    ):
        sanity(build(rules=[{"rule": "equals", "data": "answer"}]), {"prompt": "q", "good": "a", "bad": "b"})


def test_the_room_needs_neither_torch_nor_the_extra() -> None:
    code = "import refine_rl.rewards, sys; print([m for m in ('torch', 'jsonschema') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
