"""The examples run, with a few steps; their size is what they promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import refine_rl
from make import attempts, prompt
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = {"steps": 2, "prompts_per_step": 4}


def test_short_answers(tmp_path: Path) -> None:
    task = EXAMPLES / "short_answers" / "task.toml"
    assert len(task.read_text().splitlines()) < 20
    overrides = [f"grpo.{key}={value}" for key, value in FEW.items()]
    settings = load_settings(task, overrides=[*overrides, "evaluate.samples=1", "grpo.validate_every=0"])
    comparison = run(RunFolder.create(tmp_path / "run", settings))
    assert comparison.prompts >= 40
    assert set(comparison.details) >= {"component:words", "component:sentences", "component:contains"}


def test_short_answers_can_be_told_apart() -> None:
    """The rules give full marks to an answer that is right, and fewer to what the base model does wrong."""
    from refine_rl.rewards import build_reward
    from refine_rl.rewards.scoring import ScoringLoop

    reward = build_reward(load_settings(EXAMPLES / "short_answers"))
    asked = prompt("p", "Is golf fun?", topic="golf")
    answers = ["I like golf.", "Yes.", "It depends. Golf is good for the knee.", "The car is red."]
    with ScoringLoop() as loop:
        scores = loop.start(reward.score_group(asked, attempts(asked, *answers))).result()
    right, *wrong = [s.value for s in scores]
    assert right == 3.0
    assert all(value is not None and value < 3.0 for value in wrong)


def test_prompts_name_their_topic() -> None:
    for line in (EXAMPLES / "short_answers" / "prompts.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row.keys() == {"prompt", "topic"}
        assert row["topic"] in row["prompt"]


def test_python_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = EXAMPLES / "python_reward.py"
    code = compile(script.read_text(), str(script), "exec")
    train: Callable[..., Any] = refine_rl.train
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(refine_rl, "train", lambda task, **given: train(task, **{**given, "grpo": FEW}))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code, names)  # noqa: S102  the example is ours
    assert "on 21 held-out prompts" in capsys.readouterr().out
    asks = names["asks"]
    assert asks("Greet Anna", "Hi Anna! How are you?") == 1.0
    assert asks("Greet Anna", "Hi! How are you?") == 0.5
    assert asks("Greet Anna", "Hi Anna!") == 0.0
    assert asks("Greet Anna", "Hi Anna! " + "Make yourself at home. " * 3 + "How are you?") == 0.0


def test_python_reward_takes_under_ten_lines() -> None:
    _, docstring, code = (EXAMPLES / "python_reward.py").read_text().split('"""')
    assert "python examples/python_reward.py" in docstring
    assert sum(bool(line.strip()) for line in code.splitlines()) < 10


def test_a_world_of_25_lines(tmp_path: Path) -> None:
    folder = EXAMPLES / "guess_number"
    text = (folder / "guess.py").read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 25
    few = [
        "grpo.steps=1",
        "grpo.validate_every=0",
        "evaluate.samples=1",
        "prompts.train=8",
        "rollout.turns=2",
    ]
    settings = load_settings(folder / "task.toml", overrides=few)
    made = RunFolder.create(tmp_path / "run", settings)
    run(made)
    members = [t for g in made.groups() for t in g["trajectories"]]
    assert {"Say a number.", "Lower.", "Higher.", "Right."} >= {
        m["content"] for t in members for m in t["messages"][1:] if m["role"] == "user"
    }
    assert any(len(t["spans"]) == 3 for t in members)
    assert all(t["status"] == "scored" for t in members)


def test_the_world_is_played_right() -> None:
    from refine_rl.envs.stage import stage_of

    settings = load_settings(EXAMPLES / "guess_number")
    stage = stage_of(settings.rollout, settings.folder)
    assert stage is not None
    (started,) = stage.start({"low": 3, "high": 3}, 0, 1).result(timeout=60)
    assert started.said == "The number is from 3 to 3."
    world = started.environment
    asked = [(world, reply) for reply in ("no idea", "is it 2?", "4", "It is 3.")]
    assert stage.step(asked).result(timeout=60) == [
        ("Say a number.", -0.1, False),
        ("Higher.", 0.0, False),
        ("Lower.", 0.0, False),
        ("Right.", 1.0, True),
    ]


def test_python_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = EXAMPLES / "python_world.py"
    train: Callable[..., Any] = refine_rl.train
    few = {"grpo": FEW, "evaluate": {"samples": 1}}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(refine_rl, "train", lambda task, **given: train(task, **{**given, **few}))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script.read_text(), str(script), "exec"), names)  # noqa: S102  the example is ours
    assert "on 10 held-out prompts" in capsys.readouterr().out
    guest = names["ShyGuest"]()
    assert guest.start({"name": "Anna"}, 0) == ""
    assert guest.step("Hi Anna!") == ("(nods)", 0.0, False)
    assert guest.step("How are you, Ben?") == ("(nods)", 0.0, False)
    assert guest.step("How are you, Anna?") == ("Very well, thank you!", 1.0, True)
