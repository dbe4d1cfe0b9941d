"""The list of recipes, and the start of a task of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refine_rl.errors import SettingsError, UserError
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import copy_recipe, load_task, recipe_folder, recipes, write_task
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.sanity import check_sanity
from refine_rl.settings.file import load_settings


def test_every_recipe_is_listed_and_loads() -> None:
    found = {recipe.name: recipe for recipe in recipes()}
    assert {"dots", "style"} <= set(found)
    for name, recipe in found.items():
        settings = load_settings(recipe_folder(name))
        assert settings.task.startswith(recipe.summary.rstrip("."))
        assert recipe.summary
        assert settings.folder == recipe.folder.resolve()
        assert (recipe.folder / "README.md").is_file()


def test_a_task_is_a_file_or_a_recipe(tmp_path: Path) -> None:
    changed = load_task(None, recipe="dots", overrides=["grpo.steps=3"])
    assert (changed.folder, changed.grpo.steps) == (recipe_folder("dots"), 3)
    assert load_task(recipe_folder("dots")).task == changed.task
    for path, recipe in ((None, None), (tmp_path, "dots")):
        with pytest.raises(SettingsError, match="either a task file or a recipe"):
            load_task(path, recipe=recipe)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="there is no recipe 'styl'; did you mean 'style'"):
        recipe_folder("styl")
    with pytest.raises(UserError, match=r"there are .*dots"):
        recipe_folder("zzzzzz")


def test_a_copy_of_a_recipe_works_on_its_own(tmp_path: Path) -> None:
    load_prompts(load_settings(recipe_folder("dots")))  # leaves a __pycache__ beside the recipe
    task = copy_recipe("dots", tmp_path / "mine")
    assert not list(task.parent.rglob("__pycache__"))
    here, there = load_settings(task), load_settings(recipe_folder("dots"))
    assert here == there.model_copy(update={"folder": task.parent.resolve()})
    assert [p.messages for p in load_prompts(here)[0]] == [p.messages for p in load_prompts(there)[0]]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_task(tmp_path / "mine")
    for again in (lambda: write_task(tmp_path / "mine"), lambda: copy_recipe("dots", tmp_path / "mine")):
        with pytest.raises(UserError, match="mine exists already and is not empty"):
            again()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file exists already"):
        write_task(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("sentence", ['Say "no".\nThen \\1 stop.', "Answer in French."])
def test_a_new_task_carries_its_sentence(tmp_path: Path, sentence: str) -> None:
    task = write_task(tmp_path / "my-task", sentence)
    example = write_task(tmp_path / "example")
    assert load_settings(task).task == sentence
    assert load_settings(example).task == "Answer politely and briefly."
    assert {path.name for path in task.parent.iterdir()} == {"task.toml", "prompts.jsonl", "rewards.py"}


def test_the_example_task_is_ready_to_train(tmp_path: Path) -> None:
    settings = load_settings(write_task(tmp_path / "my-task"))
    assert settings.model.name == "tiny"
    prompts, report = load_prompts(settings)
    lines = (tmp_path / "my-task" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(prompts) == len(lines) == report.read
    assert len({json.loads(line)["prompt"] for line in lines}) == len(lines) >= 48
    assert {split: count > 3 for split, count in report.splits.items()} == dict.fromkeys(report.splits, True)
    reward = build_reward(settings)
    reward.check_data(prompts)
    check_sanity(reward, settings.reward.sanity)
