"""The recipe `dots`: right answers, wrong ones, and splits that are apart."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest

from refine_rl.prompts.near_duplicates import features, similarity
from refine_rl.recipes.dots import prompts as tasks
from refine_rl.recipes.dots import rules
from refine_rl.settings import Settings

FOLDER = Path(rules.__file__).parent


@pytest.mark.parametrize(
    ("completion", "answer", "kind", "correct", "bare"),
    [
        ("3", "3", "count", 1.0, 1.0),
        ("3.", "3", "count", 1.0, 1.0),
        ("There are 3 dots.", "3", "count", 1.0, 0.0),
        ("4", "3", "count", 0.0, 1.0),
        ("13", "3", "count", 0.0, 1.0),
        ("1 2 3 4", "3", "count", 0.0, 0.0),
        ("", "3", "count", 0.0, 0.0),
        ("b k b k", "b k b k", "repeat", 1.0, 1.0),
        ("b k", "b k b k", "repeat", 0.5, 1.0),
        ("b k b k b k b k", "b k b k", "repeat", 0.5, 1.0),
        ("b k k b", "b k b k", "repeat", 0.5, 1.0),
        ("k b k b", "b k b k", "repeat", 0.0, 1.0),
        ("The pattern is b k b k", "b k b k", "repeat", 1.0, 0.0),
        ("", "b k b k", "repeat", 0.0, 0.0),
    ],
)
def test_scores(completion, answer, kind, correct, bare):
    assert rules.correct("", completion, answer, kind).value == correct
    assert rules.bare("", completion, answer, kind).value == bare


def test_every_prompt_has_the_right_answer():
    rows = tasks.prompts("train", 300, 0)
    assert Counter(row["data"]["kind"] for row in rows) == {"count": 150, "repeat": 150}
    for row in rows:
        answer = row["data"]["answer"]
        if row["data"]["kind"] == "count":
            line = next(
                part
                for part in row["prompt"].replace(": ", "? ").replace("? ", "\n").split("\n")
                if "." in part
            )
            assert line.split().count(".") == int(answer)
        else:
            times = int(next(word for word in row["prompt"].split() if word.isdigit()))
            pattern = answer.split()[:3]
            assert answer.split() == pattern * times
            assert " ".join(pattern) in row["prompt"]


def test_prompts_are_the_same_for_the_same_seed():
    assert tasks.prompts("train", 30, 1) == tasks.prompts("train", 30, 1)
    assert tasks.prompts("train", 30, 1) != tasks.prompts("train", 30, 2)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        tasks.prompts("dev", 1, 0)


def test_splits_share_no_near_duplicates():
    train = [features(row["prompt"]) for row in tasks.prompts("train", 800, 0)]
    for split in ("validation", "held_out"):
        for row in tasks.prompts(split, 60, 0):
            mine = features(row["prompt"])
            assert max(similarity(mine, other) for other in train) < 0.85


def test_task_file_is_valid_and_its_sanity_cases_hold():
    settings = Settings.model_validate(tomllib.loads((FOLDER / "task.toml").read_text()))
    for case in settings.reward.sanity:
        good, bad = (
            rules.correct(case.prompt, text, **case.data).value
            * rules.bare(case.prompt, text, **case.data).value
            for text in (case.good, case.bad)
        )
        assert good == 1
        assert bad < good
