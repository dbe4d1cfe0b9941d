"""Reward functions of every kind under `refine train`: what they do to their arguments, to the process and to
the clock stays without consequence for the run."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import begin, finish
from make import task_toml
from refine_rl.errors import Interrupted
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

Refine = Callable[..., Any]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
TABLES = {
    "prompts": {"validation": 3, "held_out": 5},
    "rollout": {"group_size": 3, "max_tokens": 8},
    "grpo": {"steps": 4, "prompts_per_step": 2, "checkpoint_every": 1, "validate_every": 2},
    "evaluate": {"samples": 1},
}
PURE = """
def near(completion, letters):
    return sum(letter in completion for letter in letters) / len(letters) - len(letters) / 100

def all_near(prompts, completions, letters, **kwargs):
    return [0.5 * sorted(row)[0].count("a") + len(text) / 50 for text, row in zip(completions, letters)]
"""
RESTLESS = """
import io, os, random, sys, warnings
import numpy as np
import torch

os.chdir("/")
torch.set_grad_enabled(False)
warnings.simplefilter("ignore")

def upset():
    os.chdir("/")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    warnings.simplefilter("error")
    sys.stdout = io.StringIO()

def near(completion, letters):
    value = sum(letter in completion for letter in letters) / len(letters) - len(letters) / 100
    letters.append(completion)
    letters.sort()
    upset()
    return value

def all_near(prompts, completions, letters, **kwargs):
    values = [0.5 * sorted(row)[0].count("a") + len(text) / 50 for text, row in zip(completions, letters)]
    for row in letters:
        row.sort()
        row.clear()
        row.append("a")
    completions.clear(), prompts.clear()
    upset()
    return values
"""


def write(folder: Path, rewards: str, model: Path, **reward: Any) -> Path:
    folder.mkdir()
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    rows = [
        {"prompt": f"say something about the {a} and a {b}", "letters": sorted({*a, *b})} for a, b in pairs
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(rewards)
    reward["functions"] = ["rewards.py:near", "rewards.py:all_near"]
    (folder / "task.toml").write_text(task_toml(model, reward=reward, **TABLES))
    return folder / "task.toml"


def results(folder: Path) -> list[str]:
    names = ("groups.jsonl", "validation.jsonl", "comparison.json", "prompts.jsonl")
    evaluations = sorted((folder / "evaluations").glob("*.jsonl"))
    return [(folder / name).read_text() for name in names] + [file.read_text() for file in evaluations]


def test_what_a_function_changes_does_not_change_the_run(
    make_model: Callable[..., Path], tmp_path: Path, refine: Refine
) -> None:
    pure = write(tmp_path / "pure", PURE, make_model("llama"))
    restless = write(tmp_path / "restless", RESTLESS, make_model("llama"))
    for task in (pure, restless):
        done = refine("train", task, "--run", f"runs/{task.parent.name}", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["run"] == f"runs/{task.parent.name}"
    assert Path.cwd() == tmp_path
    wanted = results(Path("runs/pure"))
    assert results(Path("runs/restless")) == wanted
    spreads = [{t["reward"] for t in json.loads(line)["trajectories"]} for line in wanted[0].splitlines()]
    assert any(len(rewards) > 1 for rewards in spreads)  # there was something to falsify

    stopped = RunFolder.create(Path("runs/stopped"), load_settings(restless))

    def pause() -> None:
        if len(stopped.metrics()) == 2:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        run(stopped, pause=pause)
    done = refine("train", "--resume", "runs/stopped")
    assert done.code == 0, done.err
    assert results(Path("runs/stopped")) == wanted


UNRULY = """
import asyncio, os, signal, sys, threading, time

class Own(BaseException):
    pass

def loop():
    while True:
        pass

def swallow():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass

def alarm():
    signal.alarm(1)
    time.sleep(1.5)

def throw(error):
    raise error

WAYS = {
    4: loop,
    6: lambda: time.sleep(1000),
    7: lambda: threading.Event().wait(),
    9: alarm,
    10: lambda: os._exit(5),
    15: lambda: os.kill(os.getpid(), signal.SIGKILL),
    16: lambda: sys.exit(6),
    18: lambda: throw(KeyboardInterrupt()),
    19: lambda: throw(GeneratorExit()),
    21: lambda: throw(Own("mine")),
    22: swallow,
}  # by the number of the call; the ten first are the untrained model's answers, then come three of validation
calls = groups = 0

def near(completion):
    global calls
    calls += 1
    WAYS.get(calls, lambda: None)()
    return float(len(completion))

async def all_near(completions):
    global groups
    groups += 1
    await asyncio.sleep(0)
    if groups == 12:
        loop()
    return [0.0] * len(completions)
"""


def test_no_function_can_hang_or_end_the_run(make_model: Callable[..., Path], tmp_path: Path) -> None:
    task = write(tmp_path / "unruly", UNRULY, make_model("llama"), timeout=0.5, max_missing=1.0)
    done = finish("train", task, "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = [
        json.loads(line) for line in (tmp_path / "run/evaluations/base.jsonl").read_text().splitlines()
    ]
    records = [t for o in outcomes for t in (*o["sampled"], o["greedy"])]
    lines = (tmp_path / "run/groups.jsonl").read_text().splitlines()
    records += [t for line in lines for t in json.loads(line)["trajectories"]]
    missing = [t["explanation"] for t in records if t["status"] == "missing"]
    for words in (
        "did not come back within 0.5 s (reward.timeout)\n",
        "did not come back within 0.5 s (reward.timeout), and could not be stopped",
        "ValueError: signal.alarm acts on the whole process",
        "os._exit would end the whole run",
        "os.kill would end the whole run",
        "SystemExit: 6",
        "KeyboardInterrupt",
        "GeneratorExit",
        "Own: mine",
    ):
        assert any(words in why for why in missing), words
    assert all(t["reward"] is None for t in records if t["status"] == "missing")
    assert any(t["status"] == "scored" for t in records)


HANGING = """
import threading, time
from pathlib import Path

def hang():
    Path(__file__).with_name("hangs").touch()
    {how}

def near(completion):
    if Path(__file__).with_name("hang").exists():
        hang()
    return float(len(completion))

def all_near(completions):
    return [0.0] * len(completions)
"""


@pytest.mark.parametrize(
    "how",
    [
        "threading.Event().wait()",
        """
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass""",
    ],
)
def test_ctrl_c_works_while_a_function_does_not_come_back(
    how: str, make_model: Callable[..., Path], tmp_path: Path, refine: Refine
) -> None:
    task = write(tmp_path / "hanging", HANGING.format(how=how), make_model("llama"))
    task.with_name("hang").touch()
    with (tmp_path / "log").open("w") as log:
        process = begin("train", task, "--run", "run", cwd=tmp_path, stderr=log)
    kill = threading.Timer(200, process.kill)
    kill.start()
    try:
        while not task.with_name("hangs").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait()
    finally:
        kill.cancel()
        process.kill()
    err = (tmp_path / "log").read_text()
    assert process.returncode == 130, err
    assert "The state was saved." in err
    task.with_name("hang").unlink()
    assert refine("train", "--resume", "run", "--json").code == 0


@pytest.mark.parametrize("where", ["rule", "schema"])
def test_a_pattern_of_exponentially_many_ways_is_refused_before_training(
    where: str, make_model: Callable[..., Path], tmp_path: Path, refine: Refine
) -> None:
    rule = {
        "rule": {"rule": "regex", "pattern": "(.|..)+#$"},
        "schema": {"rule": "json_schema", "schema": {"type": "string", "pattern": "(.|..)+#$"}},
    }[where]
    text = "ab#" * 100 + "a"
    good = {"rule": text, "schema": f'"{text}"'}[where]
    sanity = {"prompt": "p", "good": good, "bad": "b", "data": {"letters": ["a"]}}
    task = write(tmp_path / "slow", PURE, make_model("llama"), rules=[rule], sanity=[sanity])
    began = time.process_time()
    done = refine("train", task)
    assert done.code == 2
    assert "cannot be scored" in done.err
    assert "the pattern '(.|..)+#$' did not come to an end within 1 s" in done.err
    assert time.process_time() - began < 60
    assert not list(tmp_path.glob("runs/*"))


TRL = """
def near(completion):
    return 1e200 * len(completion)

def all_near(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, **kwargs):
    done = trainer_state.global_step / trainer_state.max_steps
    log_metric("done", done)
    log_extra("tokens", [len(ids) for ids in completion_ids])
    return [None if len(text) % 2 else 1e200 * (1 + done) for text in completions]
"""


def test_trls_arguments_and_rewards_of_any_size(
    make_model: Callable[..., Path], tmp_path: Path, refine: Refine
) -> None:
    task = write(tmp_path / "trl", TRL, make_model("llama"))
    done = refine("train", task, "--run", "whole")
    assert done.code == 0, done.err
    steps = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert [m["components"]["logged/done"] for m in steps] == [0, 0.25, 0.5, 0.75]
    assert all(1e199 < m["reward_mean"] < 1e203 and m["loss"] is not None for m in steps)
    groups = [json.loads(line) for line in Path("whole/groups.jsonl").read_text().splitlines()]
    members = [t for group in groups for t in group["trajectories"]]
    for t in members:
        odd = len(t["messages"][-1]["content"]) % 2
        assert t["status"] == "scored"
        assert ("all_near" in t["breakdown"]) == (not odd)
        assert odd or f"tokens: {len(t['tokens'])}" in t["explanation"]
    assert len({len(t["breakdown"]) for t in members}) == 2  # of both kinds
    for which in ("base", "tuned"):  # measured alike: as at the end of training
        for line in Path(f"whole/evaluations/{which}.jsonl").read_text().splitlines():
            assert json.loads(line)["greedy"]["breakdown"]["logged/done"] == 1.0
    # No number of 200 digits anywhere that a person reads.
    report = Path("whole/report.html").read_text()
    for text in (done.out, done.err, re.sub(r"<script.*?</script>", "", report, flags=re.DOTALL)):
        assert not re.search(r"\d{40}", text)

    stopped = RunFolder.create(Path("stopped"), load_settings(task))

    def pause() -> None:
        if len(stopped.metrics()) == 2:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        run(stopped, pause=pause)
    assert refine("train", "--resume", "stopped").code == 0
    assert results(Path("stopped")) == results(Path("whole"))
