"""A run whose answers are programs: from the task file to the groups on record, the word about isolation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from make import task_toml
from refine_rl.rewards.code.sandbox import Isolation, Sandbox


def task(
    folder: Path, model: Path, tests: str = "assert f(2) == 4\nassert True is not f", **code: Any
) -> Path:
    words = [f"{ten} {one}" for ten in ("twenty", "thirty", "forty") for one in ("one", "two", "six", "nine")]
    rows = [{"prompt": f"Write f. {word}", "tests": tests} for word in words]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "task.toml"
    path.write_text(
        task_toml(model, reward={"code": code}, grpo={"steps": 1}, prompts={"near_duplicate": 1.0})
    )
    return path


def test_a_run_scores_programs(
    tmp_path: Path, make_model: Callable[..., Path], refine: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    done = refine("train", task(tmp_path, make_model("llama"), timeout=20.0), "--run", run)
    assert done.code == 0, done.err
    groups = [json.loads(line) for line in (run / "groups.jsonl").read_text().splitlines()]
    members = [member for group in groups for member in group["trajectories"]]
    assert len(members) == 12
    for member in members:  # a random model writes no program
        assert member["breakdown"] == {"code": 0.0}
        assert member["status"] == "scored"
        assert "0 of 2 hold" in member["explanation"] or "no program" in member["explanation"]


def test_tests_without_an_assertion_are_refused_before_a_model_is_loaded(
    tmp_path: Path, refine: Callable[..., Any]
) -> None:
    for command in ("plan", "train"):
        done = refine(command, task(tmp_path, tmp_path / "nowhere", tests="print(f(2))"))
        assert done.code == 2
        assert "they hold no assertion" in " ".join(done.err.split())
        assert "prompts.jsonl" in done.err


def test_what_is_not_isolated_is_told_by_plan_and_at_the_start_of_a_run(
    tmp_path: Path,
    make_model: Callable[..., Path],
    refine: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Isolation(root=False, calls=False, why="unshare: Operation not permitted")
    monkeypatch.setattr(Sandbox, "isolation", lambda self: found)
    path = task(tmp_path, make_model("llama"), timeout=20.0)
    done = refine("plan", path)
    assert done.code == 0, done.err
    assert "NOT isolated (the kernel refuses: unshare" in " ".join(done.out.split())
    run = tmp_path / "run"
    done = refine("train", path, "--run", run)
    assert done.code == 0, done.err
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (told,) = [event for event in events if event["name"] == "isolation"]
    assert "they could read and change every file that you can; reach the network" in told["text"]
    done = refine("train", path, "--run", tmp_path / "other", "--set", "reward.code.isolation=full")
    assert done.code == 2
    assert 'reward.code.isolation is "full"' in done.err
