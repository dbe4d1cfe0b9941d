"""What is seen of a run at a glance: of whole ones, damaged ones, and folders that are none."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from make import comparison, estimate, metrics
from refine_rl.llm.client import Call
from refine_rl.pipeline.runs import list_runs
from refine_rl.run import RunFolder
from refine_rl.run.glance import Difference, Glance, find_runs
from refine_rl.settings import Settings


def call(cost: float | None, outcome: str = "ok") -> Call:
    return Call(
        purpose="judge",
        endpoint="e",
        model="m",
        tokens_in=1,
        tokens_out=1,
        cost_usd=cost,
        seconds=0.1,
        outcome=outcome,
    )


def run(
    path: Path, *events: tuple[str, str], steps: int = 0, kind: str = "grpo", task: str = "Be."
) -> RunFolder:
    folder = RunFolder.create(path, Settings(task=task), kind=kind)
    for step in range(1, steps + 1):
        folder.metrics.append(metrics(step, seconds={"total": 2.0, "sample": 1.5}))
    for event, name in events:
        folder.event(event, name, "")
    return folder


def only(path: Path) -> Glance:
    (found,) = find_runs(path)
    return found


def test_a_finished_run_says_what_it_showed_cost_and_took(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", ("started", "run"), ("finished", "finished"), steps=3)
    folder.times.append({"stage": "prepare", "step": None, "seconds": 0.5})
    folder.calls.append(call(0.25), call(None, "timeout"), call(0.5, "cached"), call(0.125))
    folder.save_comparison(comparison("better", estimate(0.5, 0.25, 0.75)))
    found = only(tmp_path)
    assert (found.name, found.state, found.verdict, found.prompts) == ("a", "finished", "better", 64)
    assert found.difference == Difference(mean=0.5, ci95=(0.25, 0.75))
    assert (found.dollars, found.unpriced) == (0.375, 1)
    assert (found.steps, found.planned, found.seconds) == (3, folder.planned_steps(), 6.5)
    assert found.created is not None
    assert abs((datetime.now(UTC) - found.created).total_seconds()) < 600
    assert only(tmp_path / "a") == found


@pytest.mark.parametrize(
    ("events", "state", "why"),
    [
        ([], "not begun", ""),
        ([("started", "run"), ("best", "validation")], "broken off", ""),
        ([("started", "run"), ("interrupted", "interrupted")], "interrupted", ""),
        ([("started", "run"), ("guard", "budget")], "stopped", "budget"),
        ([("started", "run"), ("failure", "endpoint")], "failed", ""),
        ([("guard", "budget"), ("resumed", "run")], "broken off", ""),
        ([("finished", "finished"), ("rewound", "rewound")], "broken off", ""),
    ],
)
def test_how_a_run_stands(tmp_path: Path, events: list[tuple[str, str]], state: str, why: str) -> None:
    run(tmp_path / "a", *events)
    found = only(tmp_path)
    assert (found.state, found.why, found.dollars) == (state, why, None)


@pytest.mark.skipif(os.name != "posix", reason="only POSIX tells whether a process lives")
def test_a_run_that_is_written_runs_and_looking_takes_no_lock(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", ("started", "run"))
    RunFolder.create(folder.sft.path, Settings(task="Be."), kind="sft").event("started", "run", "")
    with folder.writing():
        assert [g.state for g in find_runs(tmp_path)] == ["running", "running"]
    assert [g.state for g in find_runs(tmp_path)] == ["broken off", "broken off"]
    folder.event("finished", "finished", "")
    with folder.writing():  # a later evaluation
        assert find_runs(tmp_path)[0].state == "finished"


def test_runs_within_runs_and_in_folders_of_runs(tmp_path: Path) -> None:
    run(tmp_path / "study/b", ("finished", "finished"))
    run(tmp_path / "study/b/sft", ("finished", "finished"), kind="sft")
    run(tmp_path / "a", ("finished", "finished"))
    run(tmp_path / "a/checkpoints/step-000001", ("finished", "finished"))  # no place for one
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/x.txt").write_text("x")
    assert [(g.name, g.within, g.kind) for g in find_runs(tmp_path)] == [
        ("a", "", "grpo"),
        ("study/b", "", "grpo"),
        ("study/b/sft", "study/b", "sft"),
    ]


def test_what_is_damaged_or_half_written_has_a_word(tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        return run(tmp_path / name, ("finished", "finished"), steps=2).path

    (damaged("config") / "config.toml").write_text('task = "Be')
    (damaged("cut") / "config.toml").write_text('task = "Be."\n[grpo]\nsteps = 7\n')
    (damaged("gone") / "config.toml").unlink()
    with (damaged("line") / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3\n')
    with (damaged("torn") / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')  # still being written
    (damaged("bytes") / "events.jsonl").write_bytes(b"\xff\xfe\n")
    (damaged("compared") / "comparison.json").write_text("{")
    (damaged("folder") / "llm_calls.jsonl").mkdir()
    (tmp_path / "claimed").mkdir()
    (tmp_path / "claimed/.lock").touch()
    found = {g.name: (g.state, g.why) for g in find_runs(tmp_path)}
    assert found["config"][0] == "damaged"
    assert found["config"][1].startswith("config.toml: Unterminated")
    assert found["cut"] == ("damaged", "config.toml: its end is missing")
    assert found["gone"] == ("damaged", "its config.toml is gone")
    assert found["line"] == ("damaged", "metrics.jsonl:3 is damaged")
    assert found["torn"] == ("finished", "")
    assert found["bytes"] == ("damaged", "events.jsonl:1 is damaged")
    assert found["compared"] == ("damaged", "comparison.json is damaged")
    assert found["folder"] == ("damaged", "llm_calls.jsonl: Is a directory")
    assert found["claimed"] == ("not begun", "")
    assert next(g for g in find_runs(tmp_path) if g.name == "cut").planned == 7


def test_a_run_of_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", ("finished", "finished"), steps=1, task="Old task.")
    config = folder.path / "config.toml"
    text = config.read_text().replace("[grpo]\n", '[grpo]\nfuture = "x"\n')
    config.write_text(
        text.replace("[versions]\n", '[versions]\nrefine-rl = "9.9"\n', 1).replace('"0.1.0"', '"8"')
    )
    (folder.path / "metrics.jsonl").write_text('{"step": 4, "new": [], "seconds": 3, "loss": "odd"}\n')
    (folder.path / "comparison.json").write_text('{"verdict": "new word", "difference": [1]}')
    text = config.read_text()
    config.write_text(text if text.count("refine-rl") == 1 else text.replace('refine-rl = "8"\n', ""))
    found = only(tmp_path)
    assert (found.state, found.version, found.task, found.steps) == ("finished", "9.9", "Old task.", 4)
    assert (found.verdict, found.difference, found.seconds) == ("new word", None, 0.0)


def test_they_are_sorted_and_matched_parts_below_their_run(tmp_path: Path) -> None:
    days = {"a": 2, "b": 3, "c": 1}
    for name, day in days.items():
        folder = run(tmp_path / name, ("finished", "finished"), steps=day, task=f"Task {name}.")
        folder.config.note(created=f"2026-01-0{day}T00:00:00+00:00")
        if name != "a":
            folder.save_comparison(comparison("better", estimate(-day, by=0.1)))
    shutil.copytree(tmp_path / "c", tmp_path / "a/sft")

    def names(**how: str) -> list[str]:
        return [g.name for g in list_runs(tmp_path, **how)]

    assert names() == ["b", "a", "a/sft", "c"]
    assert names(order="name") == ["a", "a/sft", "b", "c"]
    assert names(order="difference") == ["c", "b", "a", "a/sft"]
    assert names(order="time") == ["b", "a", "a/sft", "c"]
    assert names(match="tASK C") == ["a/sft", "c"]
    assert names(match="better", order="name") == ["a/sft", "b", "c"]
