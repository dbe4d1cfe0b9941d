"""A user's mistake: one message that names it, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.cli.training import program

Refine = Callable[..., Any]


def refused(done: Any, *texts: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    for text in texts:
        assert re.search(text, done.err), done.err
    assert done.err.splitlines()[-1] != ""
    assert len(re.findall(r"^(?:error  |Error|Usage)", done.err, re.MULTILINE)) == 1  # one head for all
    assert re.search(r"^error  \S", done.err, re.MULTILINE)
    assert "Traceback" not in done.err


def test_a_wrong_key_in_the_file(refine: Refine, task: Path, tmp_path: Path) -> None:
    shutil.copytree(task.parent, tmp_path / "mine")
    text = (tmp_path / "mine" / "task.toml").read_text().replace("group_size", "group_sise")
    (tmp_path / "mine" / "task.toml").write_text(text)
    line = 1 + text.splitlines().index("group_sise = 4")
    refused(
        refine("train", "mine"), rf"mine/task.toml:{line}: ", "rollout.group_sise", "mean.*rollout.group_size"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "nothing.toml"], "nothing.toml: no such file"),
        (["train"], "Name a task.toml"),
        (["train", "TASK", "--recipe", "style"], "A task and a recipe are two tasks"),
        (["train", "--recipe", "styel"], "did you mean 'style'"),
        (["init", "x", "--recipe", "styel"], "did you mean 'style'"),
        (["train", "TASK", "--set", "grpo.stesp=3"], "did you mean `grpo.steps`"),
        (["train", "TASK", "--set", "grpo.steps=many"], "--set grpo.steps=many: "),
        (["train", "TASK", "--set", "grpo.steps"], "KEY=VALUE"),
        (["train", "TASK", "--set", "model.name=/no/model"], "/no/model.*there is no such folder"),
        (["train", "TASK", "--set", "model.name=no/model"], "Cannot load the model 'no/model'"),
        (["train", "TASK", "--set", "model.device=gpu7"], "device = 'gpu7' cannot be used"),
        (["train", "TASK", "--set", "prompts.source=file:no.jsonl"], "no.jsonl: no such file"),
        (["train", "TASK", "--run", "/proc/no/run"], "/proc/no: No such file"),
        (["train", "--resume", "nowhere"], "nowhere is not a run"),
        (["train", "TASK", "--resume", "nowhere"], "--resume takes the run's folder alone"),
        (["report", "."], "is not a run"),
        (["eval", "."], "is not a run"),
        (["replay", ".", "--step", "1"], "is not a run"),
        (["chat", "."], "is not a run"),
        (["export", ".", "--out", "x"], "is not a run"),
        (["train", "TASK", "--stepz", "3"], "No such option.*See: refine train --help"),
        (["train", "--from-step", "x"], "--from-step.* See: refine train --help"),
        (["train", "TASK", "--set", "model.name="], "`model.name` is empty; name a model on the hub"),
        (["init", "x", "--task", "  "], "--task is empty; say in plain words"),
        (["init", "x", "--recipe", "dots", "--task", "a"], "not from both"),
        (
            ["init", "x", "--recipe", "dots", "--model", "m"],
            r"leave --model out.* `name` .* x/task.toml then",
        ),
        (["score", "no.jsonl"], "^error  no.jsonl: no such file or folder.$"),
        (["score", "TASK"], "Missing option '--out'. See: refine score --help"),
        (["export", "nowhere"], "^error  nowhere is not a run: it has no config.toml."),
        (["replay", "."], "Missing option '--step'"),
        (["init"], "Missing argument.* See: refine init --help"),
        (["trian", "TASK"], "No such command"),
        *(
            ([verb, "wrdle"], "wrdle: no such file; did you mean the recipe. --recipe wordle")
            for verb in ("train", "sft", "check", "plan", "prompts")
        ),
        (["train", "somewhere/wordle"], "somewhere/wordle: no such file; `refine init"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(refine: Refine, task: Path, tmp_path: Path, arguments: list[str], text: str) -> None:
    done = refine(*[str(task) if a == "TASK" else a for a in arguments])
    refused(done, text)
    assert "Run: " not in done.err  # it is gone
    assert [p for p in tmp_path.rglob("*") if p.name != "runs"] == []


def test_a_task_or_a_run_of_nearly_that_name_is_offered(
    refine: Refine, trained: tuple[Path, Any], task: Path
) -> None:
    folder, run = task.parent, trained[0]
    near = folder.with_name("shortr")
    refused(refine("train", near), f"{near}: no such file; did you mean {folder}")
    refused(refine("plan", folder / "task.tml"), f"did you mean {task}")
    refused(refine("chat", run.with_name("shortr")), f"is not a run: .* Did you mean {run}")
    refused(refine("train", run), f"is a run: `refine train --resume {run}` goes on with it")


def test_mistakes_with_a_finished_run(
    refine: Refine, trained: tuple[Path, Any], task: Path, tmp_path: Path
) -> None:
    run = trained[0]
    before = sorted(p.name for p in run.rglob("*"))
    refused(refine("train", task, "--run", run), "already exists. It is finished: refine chat .*; or choose")
    refused(refine("replay", run, "--step", "7"), "no step 7; it has 1 to 6")
    refused(refine("replay", run, "--step", "2", "--prompt", "p9"), "no group of 'p9'; it has p0")
    refused(refine("eval", run, "--prompts", "no.jsonl"), "--prompts no.jsonl: there is no file")
    refused(refine("eval", run, "--seed", "0"), "--seed 0 is the run's own")
    refused(refine("eval", run, "--judge", "a/b"), "--judge a/b: this run's reward has no judge")
    refused(refine("eval", run, "--prompts", "recipe:dotz"), "did you mean 'dots'")
    refused(refine("export", run, "--out", "/proc/no/model"), "/proc/no")
    refused(refine("export", run, "--out", tmp_path), "exists already")
    refused(refine("train", "--resume", run, "--set", "grpo.steps=9"), "training is done")
    assert sorted(p.name for p in run.rglob("*")) == before


def test_memory_that_is_not_there_is_the_machines(refine: Refine, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_left(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes")

    monkeypatch.setattr("refine_rl.bench.measure.measure", nothing_left)
    done = refine("bench")
    assert (done.code, done.out) == (4, "")
    assert "Out of memory. Lower grpo.tokens_per_micro_batch" in done.err


@pytest.mark.parametrize(
    ("called", "shown"),
    [("/here/refine", "/here/refine"), ("/there/refine_rl/__main__.py", f"{sys.executable} -m refine_rl")],
)
def test_what_is_printed_can_be_called(monkeypatch: pytest.MonkeyPatch, called: str, shown: str) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert program() == shown


def test_a_guard_stops_with_3_and_says_how_to_go_on(refine: Refine, task: Path, tmp_path: Path) -> None:
    done = refine(
        "train", task, "--run", "cut", "--set", "rollout.max_tokens=2", "--set", "grpo.all_cut_patience=1"
    )
    assert (done.code, done.out) == (3, "")
    assert "every completion was cut at rollout.max_tokens = 2" in done.err
    assert "Report: cut/report.html" in done.err
    assert "refine train --resume cut" in done.err
    assert "Start anew with a larger rollout.max_tokens" in (tmp_path / "cut" / "report.html").read_text()
    # With other limits, base and tuned would not be measured alike.
    refused(refine("train", "--resume", "cut", "--set", "rollout.max_tokens=10"), "Start a new run")
    refused(refine("train", "--resume", "cut", "--set", "grpo.seed=1"), "grpo.seed: this cannot change")
    others = ("judge.weight=3", "judge.kind=absolute", "judge.repeats=2", "judge.success=0.5", "model.rank=2")
    for other in others:
        refused(
            refine("train", "--resume", "cut", "--set", other),
            f"{other.partition('=')[0]}: this cannot change",
        )
    refused(refine("chat", "cut"), "no tuned model yet: refine train --resume cut")
    refused(refine("export", "cut", "--out", "x"), "no tuned model yet")
    assert refine("train", "--resume", "cut", "--set", "grpo.all_cut_patience=99").code == 0
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_cap_that_was_reached_says_how_to_raise_it(refine: Refine, task: Path) -> None:
    done = refine("train", task, "--run", "short", "--set", "budget.hours=1e-6")
    assert done.code == 3
    command = re.search(r"refine (train --resume short --set budget\.hours=\S+)", done.err)
    assert command is not None
    steps = len(Path("short/metrics.jsonl").read_text().splitlines())
    assert refine(*command[1].split()).code in (0, 3)
    assert len(Path("short/metrics.jsonl").read_text().splitlines()) > steps


def test_a_run_at_work_survives_a_second_process(refine: Refine, task: Path, tmp_path: Path) -> None:
    from refine_rl.run import RunFolder
    from refine_rl.settings.file import load_settings

    folder = RunFolder.create(tmp_path / "busy", load_settings(task))
    with folder.writing():
        refused(refine("train", "--resume", "busy"), "being written by another process")
    assert (tmp_path / "busy" / "config.toml").is_file()


def test_a_reward_from_python_is_asked_for_again(refine: Refine, task: Path, tmp_path: Path) -> None:
    from refine_rl.run import RunFolder
    from refine_rl.settings.file import load_settings

    RunFolder.create(tmp_path / "mine", load_settings(task), python_rewards=["brevity"])
    refused(refine("train", "--resume", "mine"), r"refine_rl.resume\('mine', rewards=\[brevity\]\)")


def test_out_of_memory_is_the_machines_fault(
    refine: Refine, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("refine_rl.pipeline.train.run", full)
    done = refine("train", task)
    assert done.code == 4
    assert "tokens_per_micro_batch" in done.err


def test_a_defect_of_ours_keeps_its_traceback(
    refine: Refine, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("refine_rl.pipeline.train.run", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        refine("train", task)
