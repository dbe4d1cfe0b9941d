"""The recipe `wordle` from its players' games to the comparison, in a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refine_rl.pipeline.train import run
from refine_rl.recipes import load_task
from refine_rl.run import new_run


def test_the_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of both trainings; every game is on record with its turns."""
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path / "cache"))
    small = [
        'sft.data="file:games.py[:600]"',
        "sft.batch_tokens=512",
        "prompts.train=8",
        "prompts.validation=0",
        "prompts.held_out=4",
        "grpo.steps=1",
        "grpo.prompts_per_step=4",
        "grpo.validate_every=0",
        "evaluate.samples=1",
    ]
    with new_run(tmp_path / "run", "wordle") as folder:
        folder.begin(load_task(None, recipe="wordle", overrides=small))
        compared = run(folder)
    assert compared.prompts == 4
    assert {"component:solved", "component:guesses", "component:world"} <= set(compared.details)
    groups = [json.loads(line) for line in (tmp_path / "run" / "groups.jsonl").read_text().splitlines()]
    assert len(groups) == 4
    lines = [line for group in groups for line in group["trajectories"]]
    for line in lines:
        assert line["world"]["end"] in ("done", "limit")
        assert len(line["world"]["rewards"]) <= 6


@pytest.mark.slow
def test_the_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipe (four minutes of a core): of the answers that no game of either training looked for,
    the untrained model finds none. The goal is 0.8, and what is asked here leaves room for another machine's
    rounding."""
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path / "cache"))
    with new_run(tmp_path / "run", "wordle") as folder:
        folder.begin(load_task(None, recipe="wordle"))
        compared = run(folder)
        greedy = [o.greedy[1].breakdown["solved"] for o in folder.outcomes("tuned") or [] if o.greedy]
    found = compared.details["component:solved"]
    assert compared.prompts == len(greedy) == 80
    assert found.base.mean == 0
    assert found.tuned.mean > 0.75
    assert found.tuned.ci95[0] > 0.7
    assert sum(greedy) / len(greedy) > 0.75
