"""Whole runs at a service, from the command line: what they leave, and how they go on after whatever ended
them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import begin
from make import write_pairs
from refine_rl.engines.tinker import service as services
from refine_rl.engines.tinker.learner import STATE
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.train import run
from refine_rl.pipeline.weights import open_model
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings
from tinker_server import KEY, TinkerServer

WORDS = ["cat", "dog", "tree", "house", "river", "stone"]
CHILD = """
import sys
from pathlib import Path
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
run(RunFolder.open(Path(sys.argv[1])))
"""


@pytest.fixture
def task(tmp_path: Path, model: Path) -> Callable[..., Path]:
    """task(server, "more = 1") -> a task of three steps at a service."""
    write_pairs(tmp_path, WORDS)

    def make(server: TinkerServer, more: str = "") -> Path:
        path = tmp_path / "task.toml"
        path.write_text(
            f"""
            task = "Be brief."
            [model]
            name = {json.dumps(str(model))}
            rank = 4
            dtype = "float32"
            [prompts]
            source = "file:prompts.jsonl"
            validation = 2
            held_out = 3
            [reward]
            rules = [{{rule = "chars", max = 12}}, {{rule = "words", min = 1, max = 2}}]
            [rollout]
            group_size = 4
            max_tokens = 8
            [engine]
            kind = "tinker"
            base_url = "{server.url}"
            prices = {{prefill = 1.0, sample = 10.0, train = 100.0}}
            [grpo]
            steps = 3
            prompts_per_step = 3
            learning_rate = 0.05
            checkpoint_every = 1
            validate_every = 3
            all_cut_patience = 99
            {more}
            """
        )
        return path

    return make


def told(folder: RunFolder) -> list[dict[str, Any]]:
    """Its steps, without the clocks and the bills."""
    clocks = {"seconds", "tokens_per_second", "cost_usd"}
    return [{k: v for k, v in m.items() if k not in clocks} for m in folder.metrics()]


@pytest.mark.timeout(600)  # two runs, a process and a resume: 20 s of a core that others may want
def test_a_run_and_one_that_was_killed_in_the_middle(
    refine: Callable[..., Any],
    tinker_server: Callable[..., TinkerServer],
    task: Callable[..., Path],
    model: Path,
    tmp_path: Path,
) -> None:
    server = tinker_server(model)
    done = refine("train", task(server), "--run", "whole")
    assert done.code == 0, done.err
    whole = RunFolder(tmp_path / "whole")
    metrics = whole.metrics()
    assert [m["step"] for m in metrics] == [1, 2, 3]
    assert max(m["mismatch_mean"] for m in metrics) < 1e-5
    assert all(m["grad_norm"] > 0 and m["kl"] is not None and m["cost_usd"] > 0 for m in metrics)
    assert f"at {server.url}" in next(e["text"] for e in whole.events() if e["kind"] == "started")
    calls = whole.calls()
    assert {c["purpose"] for c in calls} == {"sample", "forward", "update", "trial", "reference"}
    assert all(c["outcome"] == "ok" and c["cost_usd"] is not None for c in calls)
    wrote = [p for p in whole.path.rglob("*") if p.is_file()]
    assert not any(KEY.encode() in p.read_bytes() for p in wrote)
    assert whole.settings().model.dtype == "float32"  # for here; the service has its own
    _, policy = open_model(whole)
    assert policy.trainable()

    replayed = refine("replay", "whole", "--step", "1")
    assert replayed.code == 2
    assert "a service" in replayed.err

    path = tmp_path / "killed"
    folder = RunFolder.create(path, load_settings(tmp_path / "task.toml"))
    child = begin(path, code=CHILD)
    deadline = time.monotonic() + 200
    while not folder.metrics() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert 1 <= len(folder.metrics()) <= 3
    again = refine("train", "--resume", path)
    assert again.code == 0, again.err
    killed = RunFolder(path)
    assert told(killed) == told(whole)
    assert list(killed.groups()) == list(whole.groups())
    both = [(f.model / "adapter_model.safetensors").read_bytes() for f in (whole, killed)]
    assert both[0] == both[1]


def test_a_service_that_goes_away_and_comes_back(
    refine: Callable[..., Any],
    tinker_server: Callable[..., TinkerServer],
    task: Callable[..., Path],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "EVERY", 0.02)
    server = tinker_server(model)
    server.hold("optim_step", server.vanish, after=4)  # the trial's three, and a step
    stopped = refine("train", task(server), "--run", "run")
    assert stopped.code == 4
    assert "The step of the optimizer" in stopped.err
    assert "refine train --resume run" in stopped.err
    folder = RunFolder(tmp_path / "run")
    assert [m["step"] for m in folder.metrics()] == [1]
    assert folder.checkpoints() == [1]

    back = tinker_server(model)  # at another address; what it has saved is there
    gone_on = refine("train", "--resume", "run", "--set", f"engine.base_url={back.url}")
    assert gone_on.code == 0, gone_on.err
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3]
    assert [len(g["trajectories"]) for g in folder.groups()] == [4] * 9
    # The service keeps the states of the checkpoints that are left, and no others.
    kept = {json.loads((folder.checkpoint(n) / STATE).read_text())["state"] for n in folder.checkpoints()}
    store = back.service.store.folder
    there = {f"tinker://{place.relative_to(store)}" for place in store.glob("*/weights/*")}
    assert there == kept


def test_a_state_that_is_gone_is_named_and_an_earlier_one_serves(
    tinker_server: Callable[..., TinkerServer],
    refine: Callable[..., Any],
    task: Callable[..., Path],
    model: Path,
    tmp_path: Path,
) -> None:
    server = tinker_server(model)
    server.break_promise("optim_step", "no memory", after=5)
    assert refine("train", task(server), "--run", "run").code == 4
    other = tinker_server(model, store=tmp_path / "elsewhere")
    lost = refine("train", "--resume", "run", "--set", f"engine.base_url={other.url}")
    assert lost.code == 2
    assert "has no state tinker://" in lost.err
    assert "--from-step" in lost.err
    folder = reopen(tmp_path / "run", [], 0)
    run(folder)
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("[sft]\ndata = 'file:pairs.jsonl'", 2, "does not begin with supervised fine-tuning"),
        ("[budget]\ndollars = 0.0001", 3, "budget.dollars"),
    ],
)
def test_what_stops_a_run_before_it_trains(
    refine: Callable[..., Any],
    tinker_server: Callable[..., TinkerServer],
    task: Callable[..., Path],
    model: Path,
    change: str,
    code: int,
    said: str,
) -> None:
    server = tinker_server(model)
    stopped = refine("train", task(server, change), "--run", "run")
    assert stopped.code == code
    assert said in stopped.err
    assert not server.asked("optim_step")


def test_a_service_that_cannot_be_had_is_told_before_anything_is_asked(
    refine: Callable[..., Any],
    tinker_server: Callable[..., TinkerServer],
    task: Callable[..., Path],
    model: Path,
) -> None:
    server = tinker_server(model)
    path = task(server)
    server.manners.keys = ("tml-another",)
    refused = refine("train", path)
    assert refused.code == 2
    assert f"{server.url} does not let the key in TINKER_API_KEY (engine.key_env) in" in refused.err
    assert KEY not in refused.err
    server.manners.keys, server.manners.name = None, "Qwen/Qwen3-8B"
    other = refine("train", path)
    assert other.code == 2
    assert "engine.model where the service has another name" in other.err
    server.vanish()
    nobody = refine("train", path)
    assert nobody.code == 4
    assert f"engine.base_url: nobody answers at {server.url}" in nobody.err
    assert not server.asked("create_session")


def test_supervised_fine_tuning_at_a_service(
    refine: Callable[..., Any],
    tinker_server: Callable[..., TinkerServer],
    task: Callable[..., Path],
    model: Path,
    tmp_path: Path,
) -> None:
    server = tinker_server(model)
    rows = [{"prompt": f"say something about the {a}", "answer": f"the {a} is short"} for a in WORDS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sft = (
        '[sft]\ndata = "file:pairs.jsonl"\nsteps = 4\nvalidation = 2\nbatch_tokens = 64\nlearning_rate = 0.05'
    )
    done = refine("sft", task(server, sft), "--run", "run")
    assert done.code == 0, done.err
    folder = RunFolder(tmp_path / "run")
    losses = [m.loss for m in folder.sft_history()]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.3
    assert (folder.model / "adapter_model.safetensors").is_file()
