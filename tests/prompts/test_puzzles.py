"""Prompts of a reasoning-gym dataset: apart, repeatable, as many as there are; and a task that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import SettingsError
from refine_rl.prompts.puzzles import puzzles
from refine_rl.prompts.sources import load_all_prompts, load_prompts
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.reasoning_gym import ASKS_FOR_TAGS
from refine_rl.settings import Settings

COUNTS: Any = {"train": 20, "validation": 5, "held_out": 10}
SMALL = {"min_terms": 2, "max_terms": 2, "max_digits": 1}


def task(**prompts: Any) -> Settings:
    given = {"source": "reasoning-gym:chain_sum", "train": 6, "validation": 2, "held_out": 3, **prompts}
    return Settings.model_validate({"task": "Solve.", "prompts": given})


def test_a_seed_says_which_and_no_question_stands_twice() -> None:
    one, again, other = (puzzles("chain_sum", SMALL, COUNTS, seed=s) for s in (3, 3, 4))
    assert one == again
    assert [c.split for c in one] == ["train"] * 20 + ["validation"] * 5 + ["held_out"] * 10
    texts = [c.messages[-1]["content"] for c in one]
    assert len(set(texts)) == 35
    assert texts != [c.messages[-1]["content"] for c in other]


def test_more_training_prompts_leave_the_others_as_they_are() -> None:
    few, many = (puzzles("gcd", {}, {**COUNTS, "train": n}, seed=1) for n in (5, 30))
    assert [c for c in few if c.split != "train"] == [c for c in many if c.split != "train"]
    assert [c for c in few if c.split == "train"] == [c for c in many if c.split == "train"][:5]


def test_a_dataset_of_few_questions_gives_what_it_has_held_out_first() -> None:
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}  # a + b, a - b: 200 questions
    found = puzzles("chain_sum", tiny, {"train": 400, "validation": 20, "held_out": 50}, seed=1)
    counts = {s: sum(c.split == s for c in found) for s in COUNTS}
    assert counts["held_out"] == 50
    assert counts["validation"] == 20
    assert 100 < counts["train"] <= 130


def test_a_dataset_that_draws_from_the_shared_generator_gives_the_same_twice() -> None:
    one, again = (puzzles("list_functions", {}, COUNTS, seed=1) for _ in range(2))
    assert one == again


def test_a_task_has_the_prompts_and_the_scorer_without_naming_it() -> None:
    settings = task(parameters=SMALL)
    prompts, report = load_prompts(settings)
    assert report.splits == {"train": 6, "validation": 2, "held_out": 3}
    assert not report.dropped
    assert prompts[0].messages[0] == {"role": "system", "content": ASKS_FOR_TAGS}
    assert prompts[0].data["reasoning_gym"] == {"dataset": "chain_sum", "parameters": SMALL}
    reward = build_reward(settings)
    assert reward.component_names == ("reasoning_gym",)
    reward.check_data(prompts)


def test_own_words_or_whole_answers_ask_for_no_tags() -> None:
    own, _ = load_prompts(task(system="Be brief."))
    assert own[0].messages[0]["content"] == "Be brief."
    whole = Settings.model_validate(
        {**task().model_dump(exclude={"folder"}), "reward": {"reasoning_gym": {"answer": "whole"}}}
    )
    prompts, _ = load_prompts(whole)
    assert [m["role"] for m in prompts[0].messages] == ["user"]


def test_prompts_of_another_dataset_are_evaluated_on() -> None:
    settings = task()
    prompts, _ = load_prompts(settings)
    others, left_out = load_all_prompts(settings, "reasoning-gym:gcd", apart_from=prompts)
    assert len(others) == 3
    assert left_out == 0
    assert others[0].data["reasoning_gym"] == {"dataset": "gcd", "parameters": {}}


def test_a_file_of_its_prompts_is_scored_where_the_table_says_so(tmp_path: Path) -> None:
    import json

    from refine_rl.prompts.candidates import _RECORD

    prompts, _ = load_prompts(task())
    rows = [json.dumps({key: getattr(p, key) for key in _RECORD}) for p in prompts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    settings = Settings.model_validate(
        {
            "task": "Solve.",
            "folder": tmp_path,
            "prompts": {"source": "file:prompts.jsonl"},
            "reward": {"reasoning_gym": {}},
        }
    )
    again, _ = load_prompts(settings)
    assert again == prompts
    build_reward(settings).check_data(again)


@pytest.mark.parametrize(
    ("name", "said"),
    [("chain_sun", "did you mean `chain_sum`"), ("", '"reasoning-gym:NAME"')],
)
def test_a_source_that_is_none_is_named(name: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_prompts(task(source=f"reasoning-gym:{name}"))
    assert said in str(error.value)
