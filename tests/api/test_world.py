"""A world and tools that are given from Python: trained in, gone on with, evaluated and played in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import refine_rl as refine
from refine_rl.errors import GuardStop, UserError
from refine_rl.progress import Quiet

Small = Callable[..., dict[str, Any]]
PROMPTS = [
    {"prompt": f"Say something about {word} {n}.", "limit": n} for word in ("cats", "dogs") for n in range(9)
]


class Longer:
    """Pays for each reply that is longer than the prompt's limit; over after two turns."""

    broken = False

    def start(self, data: dict[str, Any], seed: int) -> str:
        self.limit, self.turns = data.get("limit", 0), 0
        return f"More than {self.limit}."

    def step(self, reply: str) -> tuple[str, float, bool]:
        if self.broken:
            raise RuntimeError("away")
        self.turns += 1
        return "Go on.", float(len(reply) > self.limit), self.turns == 2


def look_up(word: str, *, data: dict[str, Any]) -> int:
    """The number that belongs to a word."""
    return int(data["limit"])


@pytest.fixture
def model(make_model: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    """A random model that ends its answers: every fifth token is one that stops."""
    folder = tmp_path / "stops"
    shutil.copytree(make_model("llama", max_position_embeddings=1024), folder)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "eos_token_id": [config["eos_token_id"], *range(100, 280, 5)]}))
    return {"name": str(folder), "device": "cpu", "dtype": "float32", "rank": 2}


@pytest.fixture
def world(small: Small, model: dict[str, Any]) -> dict[str, Any]:
    rollout = {"group_size": 3, "max_tokens": 10, "turns": 2}
    given = small(rollout=rollout, model=model)
    return {"task": "Say more.", "prompts": PROMPTS, "environment": Longer, **given}


def test_a_class_is_trained_in_and_asked_for_again(world: dict[str, Any], tmp_path: Path) -> None:
    run = refine.train(**world)
    assert 'environment = "python:Longer"' in (run.folder / "config.toml").read_text()
    groups = [json.loads(line) for line in (run.folder / "groups.jsonl").read_text().splitlines()]
    members = [member for group in groups for member in group["trajectories"]]
    asked = {m["content"] for t in members for m in t["messages"] if m["role"] == "user"}
    assert any(text.endswith("More than 3.") for text in asked)
    assert {turn for t in members for turn in t["world"]["rewards"]} == {0.0, 1.0}
    name = json.loads((run.folder / "prompts.jsonl").read_text().splitlines()[-1])["id"]
    played = refine.generate(run, [name, "Anything else."], environment=Longer)
    assert ["More than" in game and "Go on." in game for game in played] == [True, True]
    assert refine.generate(run, name, base=True, environment=Longer) == refine.chat(
        run, environment=Longer
    ).base(name)
    again = refine.evaluate(run, environment=Longer, observer=Quiet())
    assert again.comparison.prompts == run.comparison.prompts
    assert again.file.is_file()
    for verb, call in {
        "evaluate": lambda: refine.evaluate(run),
        "generate": lambda: refine.generate(run, name),
        "resume": lambda: refine.resume(run),
    }.items():
        with pytest.raises(UserError, match=rf"refine_rl.{verb}\('runs/run'.*environment=Longer\)"):
            call()


def test_a_run_in_a_class_goes_on(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Longer, "broken", True)
    world["grpo"] = {**world["grpo"], "steps": 2}
    with pytest.raises(GuardStop, match=r"refine_rl.resume\('runs/run', environment=Longer\)\n") as stop:
        refine.train(**world)
    assert stop.value.guard == "missing"
    assert (
        "Where that changed a file of the reward: refine_rl.resume('runs/run', environment=Longer, step=0)"
        in (str(stop.value))
    )
    monkeypatch.setattr(Longer, "broken", False)
    with pytest.raises(UserError, match="not with environment=Other"):
        refine.resume("runs/run", environment=type("Other", (Longer,), {}))
    run = refine.resume("runs/run", environment=Longer, step=0, observer=Quiet())
    assert run.comparison.scores_missing == {"base": 0, "tuned": 0}


def test_tools_from_python_are_told_to_the_model(small: Small, model: dict[str, Any], tmp_path: Path) -> None:
    rollout = {"group_size": 3, "max_tokens": 6, "turns": 2}
    rules = [{"rule": "words", "max": 3}]
    given = {"task": "Look it up.", "prompts": PROMPTS, "rules": rules, "tools": [look_up]}
    run = refine.train(**given, **small(rollout=rollout, model=model))
    assert 'tools = ["python:look_up"]' in (run.folder / "config.toml").read_text()
    with pytest.raises(UserError, match=r"tools=\[look_up\]"):
        refine.generate(run, "Hello.")
    assert "Hello." in refine.generate(run, "Hello.", tools=[look_up])
    twin = shutil.copytree(run.folder, tmp_path / "twin")
    beside = refine.compare_runs(run, twin, tools=[look_up], again=True)
    v = beside.versus
    assert (v.a.answers, v.b.answers, v.seed) == ("anew", "anew", 1)
    assert v.comparison.difference is not None
    assert v.comparison.difference.mean == 0.0  # one model, the same draws
    with pytest.raises(UserError, match=r"tools=\[look_up\]"):
        refine.compare_runs(run, twin, again=True)


def test_two_models_beside_one_another_in_a_world_from_python(world: dict[str, Any]) -> None:
    a, b = (refine.train(**world, run=name) for name in ("a", "b"))
    with pytest.raises(UserError, match="environment"):
        refine.compare_runs(a, b)
    for more in ({}, {"again": True}):
        beside = refine.compare_runs(a, b, environment=Longer, observer=Quiet(), **more)
        difference = beside.versus.comparison.difference
        assert difference is not None
        assert difference.mean == 0.0  # the same model twice
        assert beside.versus.a.answers == ("anew" if more else "on record")
