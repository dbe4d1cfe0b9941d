"""reasoning-gym's datasets: parameters as TOML has them, entries that survive JSON, scorers that fail."""

from __future__ import annotations

import json
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.errors import SettingsError
from refine_rl.rewards import reasoning_gym as ours
from refine_rl.rewards.reasoning_gym import (
    answer_in_tags,
    data_of,
    dataset,
    packed,
    reasoning_gym_reward,
    unpacked,
)
from refine_rl.types import Prompt, Score

# The library leaves files open, and numpy has something to say of what its scorers hand it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SUM = {"min_terms": 2, "max_terms": 2}


def of(name: str, parameters: dict[str, Any] | None = None, number: int = 0) -> tuple[Prompt, dict[str, Any]]:
    """A prompt as it comes back from a run's prompts.jsonl, and the entry that the dataset made."""
    entry = dataset(name, parameters or {}, seed=5, size=8)[number]
    data = json.loads(json.dumps(data_of(entry, name, parameters or {})))
    return prompt(1, entry["question"], **data), entry


def score_of(asked: Prompt, completion: str, reads: Any = "tags", timeout: float = 60.0) -> Score:
    (score,) = scored(reasoning_gym_reward(reads, timeout), asked, completion)
    return score


@pytest.mark.parametrize(
    "value",
    [
        {"a": (1, (2, "x")), "b": [True, None, 0.5]},
        {1: "one", (2, 3): {"__tuple__": "mine"}},
        [({"__pairs__": [[1, 2]]},)],
    ],
)
def test_an_entry_survives_json(value: Any) -> None:
    assert unpacked(json.loads(json.dumps(packed(value)))) == value


def test_the_scorer_sees_the_tuples_that_its_dataset_made() -> None:
    # arc_1d's and arc_agi's scorers compare tuples: as JSON's lists their own answer would earn 0.05.
    asked, entry = of("arc_agi")
    assert score_of(asked, f"<answer>{entry['answer']}</answer>").value == 1.0


def test_which_text_is_the_answer() -> None:
    asked, entry = of("chain_sum", SUM)
    right = entry["answer"]
    assert score_of(asked, f"hm <answer> {right} </answer>").value == 1.0
    assert score_of(asked, f"<answer>9{right}9</answer> no: <answer>{right}</answer>").value == 1.0
    bare = score_of(asked, right)
    assert (bare.value, bare.status) == (0.0, "scored")
    assert "no <answer> in it" in bare.explanation
    assert score_of(asked, f"\n{right} ", "whole").value == 1.0
    # The library's own partial credit: the share of the text that is the answer.
    assert score_of(asked, f"<answer>is {right}</answer>").value == len(right) / len(f"is {right}")


def test_a_tag_that_is_not_closed_is_no_answer() -> None:
    assert answer_in_tags("<answer>12") is None
    assert answer_in_tags("12</answer>") is None


def test_an_answer_that_a_scorer_cannot_read_is_invalid() -> None:
    asked, _ = of("prime_factorization")
    score = score_of(asked, "<answer>seven</answer>")  # its scorer raises a ValueError
    assert (score.value, score.status) == (0.0, "invalid")
    assert "ValueError" in score.explanation


class Broken:
    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        raise KeyError("solution")


class Hanging:
    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        while True:
            pass


@pytest.mark.parametrize(
    ("scorer", "timeout", "why"), [(Broken(), 60.0, "solution"), (Hanging(), 0.2, "0.2 s")]
)
def test_a_scorer_that_fails_over_its_own_answer_or_hangs_is_missing(
    monkeypatch: pytest.MonkeyPatch, scorer: Any, timeout: float, why: str
) -> None:
    asked, _ = of("chain_sum", SUM)
    monkeypatch.setattr(ours, "_scorer", lambda name, parameters: scorer)
    score = score_of(asked, "<answer>1</answer>", timeout=timeout)
    assert score.status == "missing"
    assert why in score.explanation


def test_parameters_reach_the_dataset() -> None:
    config = dataset("chain_sum", {"max_terms": 3, "allow_negation": True}, seed=1, size=2).config
    assert (config.max_terms, config.allow_negation, config.seed, config.size) == (3, True, 1, 2)
    assert dataset("arc_agi", {"rotations": ["90"]}, seed=1, size=2).config.rotations == ["90"]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("chain_sun", {}, "did you mean `chain_sum`"),
        ("chain_sum", {"max_term": 3}, "did you mean `max_terms`"),
        ("chain_sum", {"max_terms": "3"}, "must be a whole number, not '3'"),
        ("chain_sum", {"max_terms": True}, "must be a whole number"),
        ("chain_sum", {"min_terms": 5, "max_terms": 2}, "refuses them: max_terms must be >= min_terms"),
        ("chain_sum", {"seed": 3}, "`grpo.seed` says it"),
        ("composite", {}, "at least one dataset"),
        ("composite", {"datasets": ["gcd"]}, "a list of tables"),
        ("composite", {"datasets": [{"name": "gcb"}]}, "did you mean `gcd`"),
        ("composite", {"datasets": [{"name": "gcd", "wait": 1}]}, "no `wait`"),
        ("composite", {"datasets": [{"name": "gcd", "config": {"min_number": 1}}]}, "`min_numbers`"),
    ],
)
def test_what_a_dataset_does_not_take_is_named(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        dataset(name, parameters, seed=1, size=1)
    assert said in str(error.value)


def test_a_composite_scores_each_part_with_its_own_scorer() -> None:
    parameters = {"datasets": [{"name": "gcd"}, {"name": "chain_sum", "weight": 2, "config": SUM}]}
    made = dataset("composite", parameters, seed=5, size=8)
    sources = set()
    for number in range(8):
        asked, entry = of("composite", parameters, number)
        assert entry == made[number]
        sources.add(entry["metadata"]["source_dataset"])
        assert score_of(asked, f"<answer>{entry['answer']}</answer>").value == 1.0
    assert sources == {"gcd", "chain_sum"}


def test_every_dataset_loads_and_scores_after_json_as_before() -> None:
    from reasoning_gym.factory import DATASETS

    assert len(DATASETS) >= 106
    for name in sorted(DATASETS):
        parameters = {"datasets": [{"name": "gcd"}]} if name == "composite" else {}
        made = dataset(name, parameters, seed=1, size=8)
        entry = made[0]
        data = json.loads(json.dumps(data_of(entry, name, parameters)))
        again = unpacked({key: data[key] for key in ("question", "answer", "metadata")})
        assert again == {key: entry[key] for key in again}, name
        scorer = dataset(name, parameters, seed=0, size=1)
        own = entry["answer"] if isinstance(entry["answer"], str) else ""
        for answer in (own, "0", None):
            assert outcome(scorer, answer, again) == outcome(made, answer, entry), name
        if isinstance(entry["answer"], str):
            assert outcome(scorer, own, again) == 1.0, name


def outcome(scorer: Any, answer: str | None, entry: dict[str, Any]) -> Any:
    try:
        return scorer.score_answer(answer, entry)
    except Exception as error:
        return repr(error)
