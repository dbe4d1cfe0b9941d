"""The README's own task, read out of it: planned as it stands, and trained against a local server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## A task of your own: one sentence")[2].partition("\n## ")[0]
FEW = (
    *("prompts.train=12", "prompts.validation=3", "prompts.held_out=6"),
    *(
        "grpo.steps=2",
        "grpo.validate_every=2",
        "rollout.max_tokens=32",
        "evaluate.samples=2",
        "writer.batch=7",
    ),
)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    block = re.search(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    assert block is not None
    (tmp_path / "mine" / "task.toml").write_text(block[1])
    return tmp_path / "mine" / "task.toml"


def test_the_plan_keeps_to_the_cap(
    refine: Callable[..., Any], task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    done = refine("plan", task)
    assert done.code == 0, done.err
    assert "unknown for" not in done.out
    assert not re.search(r"(?m)^budget ", done.out), done.out
    cost = json.loads(refine("plan", task, "--json").out)["cost"]
    assert cost["unknown"] == []
    assert 0 < cost["low"] < cost["high"] <= load_settings(task).budget.dollars
    # What the comment beside the cap says.
    said = re.search(r"`refine plan` says (\d+) to (\d+)", task.read_text())
    assert said is not None
    assert (round(cost["low"]), round(cost["high"])) == (int(said[1]), int(said[2]))


def test_it_trains(
    refine: Callable[..., Any], task: Path, llm_server: Callable[..., Any], llm_brain: Callable[..., str]
) -> None:
    server = llm_server(brain=llm_brain)
    there = [f'endpoints.openrouter.base_url="{server.base_url}"', "model.name=tiny"]
    flags = [flag for setting in (*there, *FEW) for flag in ("--set", setting)]
    planned = json.loads(refine("plan", task, *flags, "--json").out)["cost"]
    done = refine("train", task, *flags)
    assert done.code == 0, done.err
    run = RunFolder.open(task.parent.parent / "runs" / "mine")
    assert len(run.metrics()) == 2
    assert [sum(p.split == s for p in run.prompts()) for s in ("train", "validation", "held_out")] == [
        12,
        3,
        6,
    ]
    calls = run.calls()
    assert {c["model"] for c in calls} == {"moonshotai/kimi-k2", "deepseek/deepseek-r1"}
    assert {c["purpose"] for c in calls} >= {"writer", "judge"}
    # Every call has a price, from the tables that came with us; the bill keeps to the plan.
    spent = sum(c["cost_usd"] for c in calls)
    assert 0 < spent <= planned["high"]
    comparison = run.comparison()
    assert comparison is not None
    assert comparison.prompts == 6
