"""Whole runs from the command line, sampled by the server: what is learned, what stops, what goes on."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forked import Forked, begin
from make import task_toml, write_pairs
from refine_rl.pipeline.model import run_policy
from refine_rl.run import RunFolder
from refine_rl.training.grpo.setup import distance_of, learn_of, learner_of
from vllm_server import VllmServer

MakeModel = Callable[..., Path]
Serve = Callable[..., VllmServer]
Refine = Callable[..., Any]

WORDS = ["cat", "dog", "tree", "house", "river", "stone"]


@pytest.fixture
def task(make_model: MakeModel, tmp_path: Path) -> Callable[..., Path]:
    """task(server, **tables) -> a task.toml of a run of a second, sampled there."""

    def write(server: VllmServer, **tables: dict[str, Any]) -> Path:
        write_pairs(tmp_path, WORDS)
        own = {
            "engine": {"kind": "vllm", "base_url": server.base_url},
            "reward": {"rules": [{"rule": "chars", "max": 12}]},
            "grpo": {"checkpoint_every": 2, "validate_every": 0},
        }
        merged = {name: {**own.get(name, {}), **tables.get(name, {})} for name in {**own, **tables}}
        (tmp_path / "task.toml").write_text(task_toml(make_model(), **merged))
        return tmp_path / "task.toml"

    return write


def weights(folder: RunFolder, step: int = 3) -> dict[str, torch.Tensor]:
    return load_file(folder.checkpoint(step) / "weights.safetensors")


def test_a_run_learns_what_this_process_would_learn_from_the_same_tokens(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine
) -> None:
    server = serve(make_model())
    done = refine("train", task(server), "--run", "run")
    assert done.code == 0, done.err
    assert "answers are sampled by the vLLM server at http://127.0.0.1:" in done.err
    assert "a replay compares log-probs" in done.err
    folder = RunFolder.open(Path("run"))
    for metrics in folder.metrics():
        assert metrics["mismatch_mean"] < 1e-4
        assert metrics["importance_max"] == pytest.approx(1.0, abs=1e-2)
    assert (
        len({b["lora_name"] for b in server.asked("/v1/load_lora_adapter")}) == 6
    )  # 2 to meet, 4 of the run
    assert server.adapters == {}

    settings = folder.settings()
    policy = run_policy(folder, keep_reference=False)
    learn = learn_of(settings, learner_of(settings, policy), distance_of(settings, policy, lambda: ()))
    for step, groups in sorted(folder.recorded_steps().items()):
        learn(groups, step)
    for name, weight in policy.trainable().items():
        assert torch.equal(weight, weights(folder)[name])

    again = refine("replay", "run", "--step", "3")
    assert again.code == 0, again.err
    assert len(re.findall("same, [0-9]+ tokens, log-probs .*e-0[5-9] nats a token apart", again.out)) == 12
    assert "by their log-probs (a server drew them" in " ".join(again.out.split())
    lines = (folder.path / "groups.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    last["trajectories"][0]["logprobs"] = [x - 0.5 for x in last["trajectories"][0]["logprobs"]]
    (folder.path / "groups.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    changed = refine("replay", "run", "--step", "3")
    assert changed.code == 2
    assert "DIFFERENT" in changed.out
    assert "differs from the record in 1 of 12" in changed.err


def test_a_server_that_dies_and_one_at_another_address(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine
) -> None:
    first = serve(make_model())
    done = refine("train", task(first), "--run", "whole")
    assert done.code == 0, done.err
    second = serve(make_model())
    sampled = 0

    def fault(path: str, number: int) -> str:
        nonlocal sampled
        ours = path == "/v1/completions" and second.requests[-1][1]["max_tokens"] == 10
        sampled += ours
        return "die" if ours and sampled == 6 * 2 + 3 + 2 else ""  # in the second step

    second.fault = fault
    stopped = refine("train", task(second), "--run", "run")
    assert stopped.code == 4, stopped.err
    assert "It answered before. Start it again with this command, then go on:" in " ".join(
        stopped.err.split()
    )
    assert "vllm serve" in stopped.err
    (go_on,) = re.findall(r"The state was saved. Go on with: refine (.*)", stopped.err)
    refused = refine(*shlex.split(go_on))  # nobody is there yet
    assert refused.code == 4
    assert "gives no reply" in refused.err
    third = serve(make_model())
    elsewhere = refine(*shlex.split(go_on), "--set", f"engine.base_url={third.base_url}")
    assert elsewhere.code == 0, elsewhere.err
    whole, run = RunFolder.open(Path("whole")), RunFolder.open(Path("run"))
    assert [m["step"] for m in run.metrics()] == [1, 2, 3]
    for name, weight in weights(whole).items():  # these servers draw the same when they are asked the same
        assert torch.equal(weight, weights(run)[name])


def test_what_was_recorded_before_a_kill_is_learned_again_to_the_bit(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine, tmp_path: Path
) -> None:
    server = serve(make_model())
    given = task(server, grpo={"checkpoint_every": 9})
    assert refine("train", given, "--run", "whole").code == 0
    child: list[Forked] = []

    def fault(path: str, number: int) -> str:
        """Kills the run as soon as it has asked for the third step: two are on record, none is kept."""
        if path == "/v1/load_lora_adapter" and number == before + 4:
            child[0].send_signal(signal.SIGKILL)
            return "drop"
        return ""

    before = len(server.asked("/v1/load_lora_adapter"))
    server.fault = fault
    child.append(begin("train", given, "--run", tmp_path / "run"))
    assert child[0].wait(timeout=120) == -signal.SIGKILL
    run = RunFolder.open(tmp_path / "run")
    recorded = run.recorded_steps()
    assert sorted(recorded) == [1, 2]
    assert run.checkpoints() == []
    server.fault = lambda path, number: ""
    asked = len(server.asked("/v1/completions"))
    assert refine("train", "--resume", tmp_path / "run").code == 0
    assert {s: recorded[s] for s in (1, 2)} == {s: run.recorded_steps()[s] for s in (1, 2)}
    assert all(b["model"] != "served" for b in server.asked("/v1/completions")[asked:])
    for name, weight in weights(RunFolder.open(Path("whole"))).items():
        assert torch.equal(weight, weights(run)[name])


def test_a_stale_adapter_stops_the_run_and_it_goes_on(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine
) -> None:
    server = serve(make_model())

    def fault(path: str, number: int) -> str:
        server.wrong = "stale" if path == "/v1/load_lora_adapter" and number == 4 else ""
        return ""

    server.fault = fault
    stopped = refine("train", task(server), "--run", "run")
    assert stopped.code == 3, stopped.err
    assert "does not answer by the weights that it was given as refine-" in " ".join(stopped.err.split())
    assert "those before the update" in " ".join(stopped.err.split())
    server.fault, server.wrong = lambda path, number: "", ""
    assert refine("train", "--resume", "run").code == 0
    assert [m["step"] for m in RunFolder.open(Path("run")).metrics()] == [1, 2, 3]


def test_sampling_one_step_ahead(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine
) -> None:
    server = serve(make_model())
    done = refine("train", task(server, rollout={"ahead": 1}, grpo={"checkpoint_every": 9}), "--run", "run")
    assert done.code == 0, done.err
    metrics = RunFolder.open(Path("run")).metrics()
    assert all(
        m["mismatch_mean"] < 1e-4 for m in metrics
    )  # compared while the weights were those that sampled
    assert abs(metrics[1]["importance_max"] - 1) > 1e-3  # and learned from one update later
    assert refine("replay", "run", "--step", "3").code == 0


def test_supervised_fine_tuning_asks_no_server(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine
) -> None:
    server = serve(make_model())
    given = task(server, sft={"data": "file:pairs.jsonl", "steps": 2, "batch_tokens": 64})
    pairs = [{"prompt": f"say {word}", "answer": word} for word in WORDS * 3]
    (given.parent / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    done = refine("sft", given, "--run", "taught")
    assert done.code == 0, done.err
    assert server.requests == []
    done = refine("train", given, "--run", "run")
    assert done.code == 0, done.err
    assert RunFolder.open(Path("run")).outcomes("sft")
    server.requests.clear()
    assert refine("eval", "run").code == 0
    assert server.requests == []


WORLD = '''
class Again:
    """Asks for more once."""

    def start(self, data, seed):
        self.asked = 0
        return "say it"

    def step(self, reply):
        self.asked += 1
        return "and more", len(reply) / 99, self.asked == 2
'''


def test_several_turns_go_on_from_what_was_said(
    make_model: MakeModel, serve: Serve, task: Callable[..., Path], refine: Refine, tmp_path: Path
) -> None:
    """A random model that ends its answers: every fifth token is one that stops."""
    folder = tmp_path / "stops"
    shutil.copytree(make_model(), folder)
    config = json.loads((folder / "generation_config.json").read_text())
    stops = [config["eos_token_id"], *range(100, 280, 5)]
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": stops}))
    (tmp_path / "world.py").write_text(WORLD)
    server = serve(folder)
    rollout = {"environment": "world.py:Again", "turns": 2, "max_tokens": 12}
    given = task(
        server, model={"name": str(folder)}, rollout=rollout, grpo={"steps": 2}, reward={"rules": []}
    )
    done = refine("train", given, "--run", "run")
    assert done.code == 0, done.err
    run = RunFolder.open(Path("run"))
    assert all(m["mismatch_mean"] < 1e-4 for m in run.metrics())
    asked = [body["prompt"] for body in server.asked("/v1/completions")]
    turns = [t for groups in run.recorded_steps().values() for g in groups for t in g.trajectories]
    second = [t for t in turns if sum(s.sampled for s in t.segments) == 2]
    assert second
    for t in second:  # what stood before the second turn went over the wire as it had been sampled
        assert [i for s in t.segments[:3] for i in s.token_ids] in asked
