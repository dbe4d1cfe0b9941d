"""Runs side by side: each start gets a folder of its own, and nobody takes away another one's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import finish
from refine_rl.cli.going_on import told_of_earlier
from refine_rl.errors import UserError
from refine_rl.run import RunFolder, new_run
from refine_rl.settings.file import load_settings

Refine = Callable[..., Any]

# Two processes that have everything imported, and begin at the same moment.
TWO = """
import os, sys
import refine_rl.pipeline.train
from refine_rl.cli import main

gate, opened = os.pipe()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os.close(opened)
        os.read(gate, 1)  # until the parent closes its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main()
    children.append(child)
os.close(opened)
for child in children:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
SHORT = ("grpo.steps=1", "evaluate.samples=1", "grpo.validate_every=0")

# Claims and gives up again and again, as runs do that are refused; a few are kept.
RIVAL = """
import sys
from pathlib import Path
from refine_rl.settings.file import load_settings
from refine_rl.errors import UserError
from refine_rl.run import new_run

settings = load_settings(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for turn in range(60):
    try:
        with new_run(None, "same") as run:
            run.begin(settings)
            run.event("started", "run", sys.argv[2])
            if turn % 20:
                (run.path / "events.jsonl").unlink()
                raise UserError("refused")
            print(run.path, flush=True)
    except UserError as error:
        assert str(error) == "refused", error
"""


def test_two_starts_at_once_are_two_runs(task: Path, tmp_path: Path) -> None:
    arguments = ["train", str(task), *(text for s in SHORT for text in ("--set", s))]
    done = finish(*arguments, code=TWO, cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "0"]), done.stderr
    names = sorted(line for line in done.stderr.splitlines() if line.startswith("Run: "))
    assert names == ["Run: runs/shorter", "Run: runs/shorter-2"]
    comparisons = set()
    for name in ("shorter", "shorter-2"):
        run = RunFolder.open(tmp_path / "runs" / name)
        assert (run.finished(), [m["step"] for m in run.metrics()]) == (True, [1])
        assert [e["kind"] for e in run.events()].count("started") == 1
        comparisons.add((run.path / "comparison.json").read_text())
    assert len(comparisons) == 1  # the same task and seed


def test_claims_and_refusals_of_many_processes(task: Path, tmp_path: Path) -> None:
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(task), str(number)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    ended = [rival.communicate("go\n", timeout=120) for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0, 0, 0], ended
    kept = [line for out, _ in ended for line in out.splitlines()]
    assert len(kept) == len(set(kept)) == 12
    assert {str(p.relative_to(tmp_path)) for p in (tmp_path / "runs").iterdir()} == set(kept)
    owners = Counter(json.loads((tmp_path / k / "events.jsonl").read_text())["text"] for k in kept)
    assert owners == {"0": 3, "1": 3, "2": 3, "3": 3}


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (None, "broken off, step 0 of 6"),
        ("interrupted", "interrupted, step 0 of 6"),
        ("failure", "failed, step 0 of 6"),
        ("guard", ""),
        ("finished", ""),
    ],
)
def test_who_begins_again_hears_of_the_run_that_was_left(
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended: str | None,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(task)
    for name in ("shop", "shop-2"):
        left = RunFolder.create(Path("runs") / name, settings)
        left.event("started", "run", "")
        if ended:
            left.event(ended, "run", "")
    with new_run(None, "shop") as run:
        assert run.path == Path("runs/shop-3")
        told_of_earlier(run, "shop", "refine")
    said = capsys.readouterr().err
    assert ("runs/shop-2 is not finished" in said) == bool(told)
    if told:
        assert (
            f"({told}), and this is a new run. To go on with that one: refine train --resume runs/shop-2"
            in said
        )


def test_the_first_run_of_a_name_hears_of_none(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with new_run(None, "shop") as run:
        told_of_earlier(run, "shop", "refine")
    assert capsys.readouterr().err == ""


def test_a_claimed_folder_is_nobody_elses(task: Path, tmp_path: Path) -> None:
    settings = load_settings(task)
    first = RunFolder.claim(tmp_path / "a")
    for other in (
        lambda: RunFolder.claim(tmp_path / "a"),
        lambda: RunFolder.create(tmp_path / "a", settings),
    ):
        with pytest.raises(UserError, match="already exists and is no run"):
            other()
    assert RunFolder.claim_free(tmp_path, "a").path == tmp_path / "a-2"
    first.begin(settings)
    with pytest.raises(UserError, match="being written by another process"):
        with RunFolder.open(tmp_path / "a").writing():
            pass
    RunFolder.open(tmp_path / "a").abandon()  # who does not hold it takes nothing away
    assert (tmp_path / "a" / "config.toml").is_file()
    first.abandon()
    assert not (tmp_path / "a").exists()


def test_a_folder_that_another_process_works_in_is_not_removed(task: Path, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a", load_settings(task))
    with RunFolder.open(tmp_path / "a").writing():
        run.abandon()
        assert (tmp_path / "a" / "config.toml").is_file()
    run.abandon()
    assert not (tmp_path / "a").exists()


def test_what_a_killed_start_leaves_is_free(task: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()
    (tmp_path / "a" / ".config.toml.new").write_text("half")
    with new_run(tmp_path / "a", "") as run:
        run.begin(load_settings(task))
    assert RunFolder.open(tmp_path / "a").settings().task == "Be short."


def test_an_empty_folder_is_taken_and_the_current_one_too(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with new_run(Path(), "") as run:
        run.begin(load_settings(task))
    assert (tmp_path / "here" / "config.toml").is_file()


def test_a_refused_start_leaves_nothing(refine: Refine, task: Path, tmp_path: Path) -> None:
    for arguments in (
        ["--set", "model.name=/no/model"],
        ["--run", "mine", "--set", "prompts.source=file:no.txt"],
    ):
        assert refine("train", task, *arguments).code == 2
    assert [p.name for p in tmp_path.rglob("*")] == ["runs"]
