"""Several processes: the busiest one's share, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refine_rl.plan import Counts, make_plan, memory, pace
from refine_rl.plan.pace import Pace
from refine_rl.plan.supervised import supervised
from refine_rl.plan.team import LINK, TOGETHER, Team, team_of
from refine_rl.settings import EngineSettings, Settings
from refine_rl.settings.file import settings_from_dict
from sizes import RATES, ROWS, SIZE

COUNTS = Counts(train=40, validation=5, held_out=7, chars=400)
GPUS = replace(RATES, device="cuda", devices=2)


def make(**sections: Any) -> Settings:
    given: dict[str, Any] = {"grpo": {"prompts_per_step": 5}, **sections}
    return settings_from_dict(
        {"task": "Be brief.", "reward": {"rules": [{"rule": "words"}]}, **given}, Path()
    )


def test_the_busiest_process_decides() -> None:
    """5 prompts over 2 GPUs: 3 and 2 to answer, and half of the tokens each to train on; 5 validation prompts
    3, 7 held-out ones 4. Each GPU reaches 0.9 of its own rates, and holds the whole model."""
    settings = make(engine={"processes": 2}, grpo={"prompts_per_step": 5, "steps": 20, "validate_every": 10})
    team = team_of(settings.engine, GPUS)
    assert (team, team.on_one) == (Team(processes=2, devices=2), 1)
    found = pace.estimate(settings, SIZE, GPUS, COUNTS, team)
    part = TOGETHER["cuda"]
    slower = replace(GPUS, train=part * 1e9, decode=part * 5e8, bytes=part * 1e9)
    one = Pace(settings=settings, size=SIZE, rates=slower, prompt=100)
    said = 5 * 8 * 256
    trained = one.once((500 + said) / 2, said / 2, settings.grpo.at_once)
    assert found.step[1] == pytest.approx(one.sampling(3, 8) + trained)
    evaluated = 3 * one.sampling(3, 4) + 2 * (one.sampling(4, 4) + one.sampling(4, 1))
    assert found.evaluation[1] == pytest.approx(evaluated)
    shared = Counts(train=20, validation=3, held_out=4, chars=400)
    alone = make(grpo={"prompts_per_step": 3, "steps": 20, "validate_every": 10})
    assert found.memory == pace.estimate(alone, SIZE, GPUS, shared).memory
    assert found.disk == pace.estimate(settings, SIZE, GPUS, COUNTS).disk  # one of them writes


def test_cores_of_a_processor_are_shared() -> None:
    """Two processes have half of its rates each, and twice its memory."""
    settings = make(engine={"processes": 2})
    team = team_of(settings.engine, RATES)
    assert (team, team.on_one) == (Team(processes=2, devices=1), 2)
    assert team.rates(RATES) == replace(
        RATES,
        train=TOGETHER["cpu"] * 5e8,
        decode=TOGETHER["cpu"] * 2.5e8,
        bytes=TOGETHER["cpu"] * 5e8,
    )
    each = pace.estimate(
        make(grpo={"prompts_per_step": 3}), SIZE, RATES, replace(COUNTS, validation=3, held_out=4)
    ).memory
    found = pace.estimate(settings, SIZE, RATES, COUNTS, team)
    assert found.memory == (2 * each[0], 2 * each[1])


def test_more_processes_than_gpus() -> None:
    team = team_of(EngineSettings(processes=5), GPUS)
    assert (team.devices, team.on_one) == (2, 3)
    assert team.rates(GPUS).train == pytest.approx(1e9 * TOGETHER["cuda"] / 3)
    assert list(team.words("cuda", 5)) == [
        "engine.processes = 5 needs as many GPUs, and this machine has 2: the run would be refused here."
    ]
    assert list(team_of(EngineSettings(processes=2), GPUS).words("cuda", None)) == []
    assert list(team_of(EngineSettings(processes=5), RATES).words("cpu", 5)) == []


def test_a_spread_model() -> None:
    """800,000 weights of four layers in two bytes, over 4 GPUs: a quarter is there, and two layers at a time;
    the other three quarters come for every token, and twice for every micro-batch."""
    rates = replace(GPUS, dtype="bfloat16", devices=4, link=1e9)
    shard, copies = (
        make(engine={"processes": 4, "shard": s}, grpo={"prompts_per_step": 4}) for s in (True, False)
    )
    team, usual = (team_of(s.engine, rates) for s in (shard, copies))
    whole = 2 * 800_000
    assert team.apart(SIZE, rates) == whole - whole / 4 - 2 * whole / 4
    assert usual.apart(SIZE, rates) == 0
    assert team.gathering(SIZE, rates) == pytest.approx(0.75 * whole / 1e9)
    assert team.gathering(SIZE, replace(rates, link=None)) == pytest.approx(0.75 * whole / LINK["cuda"])
    held, kept = (memory.memory(s, SIZE, rates, COUNTS, 1.0, t) for s, t in ((copies, usual), (shard, team)))
    assert held - kept == team.apart(SIZE, rates)
    one, other = (
        Pace(settings=s, size=SIZE, rates=rates, prompt=100, team=t)
        for s, t in ((copies, usual), (shard, team))
    )
    plain = 4 * (pace.UNCAPTURED - one.fitted.launch)  # a step that takes all processes is not recorded
    assert other.sampling(4, 8) - one.sampling(4, 8) == pytest.approx(
        257 * (plain + team.gathering(SIZE, rates))
    )
    batches = math.ceil((400 + 32 * 256) / 4 / shard.grpo.at_once)
    assert other.training(4, 8) - one.training(4, 8) == pytest.approx(
        batches * 2 * team.gathering(SIZE, rates)
    )


def test_rows_to_imitate_are_dealt_by_their_tokens() -> None:
    settings = make(sft={"data": "file:pairs.jsonl", "examples": 5})
    assert settings.sft is not None
    team = Team(processes=2, devices=2)
    found = supervised(settings, settings.sft, ROWS, SIZE, GPUS, team)
    half = replace(ROWS, tokens=10_000, targets=2500, looked=500)
    fewer = settings.sft.model_copy(update={"examples": 3})
    assert found == replace(supervised(settings, fewer, half, SIZE, team.rates(GPUS)), rows=ROWS)


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        (RATES, "GB, 2 processes together"),
        (GPUS, "GB on each of 2 GPUs, 2 processes"),
        (replace(GPUS, devices=1), "GB on the GPU, 2 processes"),
    ],
)
def test_the_memory_in_words(rates: Any, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refine_rl.plan.machine.installed_memory", lambda device: 1e12)
    settings = make(model={"name": "tiny"}, engine={"processes": 2})
    planned = make_plan(settings, COUNTS, rates=rates)
    assert shown in planned.held()
    assert f"memory:  {planned.held()}" in repr(planned)
    assert "processes" not in make_plan(make(model={"name": "tiny"}), COUNTS, rates=rates).held()


def test_processes_without_a_prompt_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refine_rl.plan.machine.installed_memory", lambda device: 1e12)
    few = make_plan(make(model={"name": "tiny"}, engine={"processes": 8}), COUNTS, rates=RATES)
    (note,) = [n for n in few.notes if "wait while the others" in n]
    assert "3 of the 8 processes" in note
    enough = make_plan(make(model={"name": "tiny"}, engine={"processes": 5}), COUNTS, rates=RATES)
    assert not [n for n in enough.notes if "wait while the others" in n]
