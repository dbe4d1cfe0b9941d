"""Whole runs on a small random model: files, evidence, resuming, stopping."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import PIPE, begin
from make import Pause, write_pairs
from refine_rl.errors import GuardStop, Interrupted, UserError
from refine_rl.evaluate import probes
from refine_rl.pipeline.evaluate import evaluate_again
from refine_rl.pipeline.export import export_model
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.train import run
from refine_rl.pipeline.weights import choose_weights
from refine_rl.policy.load import load_policy
from refine_rl.progress import Quiet
from refine_rl.report.measured import later
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import override, settings_from_dict
from refine_rl.training import check, checkpoint
from refine_rl.training.grpo.setup import schedule_of
from refine_rl.types import Comparison

MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]


@pytest.fixture(scope="module")
def task(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """task(**sections) -> settings of a run of a few seconds: shorter words are better."""
    folder = tmp_path_factory.mktemp("task")
    write_pairs(folder, WORDS)

    def make(**sections: dict[str, Any]) -> Settings:
        usual: dict[str, dict[str, Any]] = {
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:prompts.jsonl", "validation": 4, "held_out": 6},
            "reward": {"rules": [{"rule": "chars", "max": 12}, {"rule": "words", "min": 1, "max": 2}]},
            "rollout": {"group_size": 4, "max_tokens": 10},
            "grpo": {
                "steps": 10,
                "prompts_per_step": 3,
                "learning_rate": 0.02,
                "checkpoint_every": 4,
                "validate_every": 3,
                "all_cut_patience": 99,
            },
            "evaluate": {"samples": 2, "bootstrap": 200},
        }
        for name, values in sections.items():
            usual[name] = {**usual.get(name, {}), **values}
        return settings_from_dict({"task": "Be short.", **usual}, folder)

    return make


def same(a: RunFolder, b: RunFolder) -> None:
    """Two runs have the same content, to the bit, apart from clocks."""
    last = a.checkpoints()[-1]
    assert a.checkpoints()[-1] == b.checkpoints()[-1]
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (a.checkpoint(last) / file).read_bytes() == (b.checkpoint(last) / file).read_bytes()
    for file in ("groups.jsonl", "validation.jsonl", "prompts.jsonl", "comparison.json"):
        assert (a.path / file).read_text() == (b.path / file).read_text(), file
    weights = "adapter_model.safetensors"
    assert (a.model / weights).read_bytes() == (b.model / weights).read_bytes()
    timeless = [
        [{k: v for k, v in m.items() if k not in ("seconds", "tokens_per_second")} for m in r.metrics()]
        for r in (a, b)
    ]
    assert timeless[0] == timeless[1]
    assert [m["step"] for m in b.metrics()] == list(range(1, 11))


@pytest.fixture(scope="module")
def whole(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was never stopped."""
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole", task())
    run(folder)
    return folder


def test_everything_is_on_record(whole: RunFolder) -> None:
    assert [m["step"] for m in whole.metrics()] == list(range(1, 11))
    groups = list(whole.groups())
    assert len(groups) == 30
    for group in groups:
        assert len(group["trajectories"]) == 4
        for t in group["trajectories"]:
            assert t["status"] == "scored"
            assert set(t["breakdown"]) == {"chars", "words"}
            assert t["reward"] == pytest.approx(sum(t["breakdown"].values()))
            assert len(t["tokens"]) == len(t["logprobs"]) <= 10
            assert t["messages"][-1]["role"] == "assistant"
    assert [v["step"] for v in whole.validation()] == [0, 3, 6, 9, 10]
    assert {p.split for p in whole.prompts()} == {"train", "validation", "held_out"}
    trained = {g["prompt_id"] for g in groups}
    assert trained <= {p.id for p in whole.prompts() if p.split == "train"}
    assert whole.config.versions()["torch"]
    assert "<html" in (whole.path / "report.html").read_text()
    for metrics in whole.metrics():
        assert metrics["mismatch_mean"] < 1e-5
        assert metrics["kl"] is not None
        assert metrics["cost_usd"] is None


def test_the_best_on_validation_is_the_model(whole: RunFolder) -> None:
    scored = {v["step"]: v["reward"]["mean"] for v in whole.validation() if v["step"] > 0}
    best = max(scored, key=lambda s: (scored[s], -s))
    assert best in whole.checkpoints()
    assert 10 in whole.checkpoints()
    position = json.loads((whole.checkpoint(10) / "position.json").read_text())
    assert position["best_step"] == best
    from safetensors.torch import load_file

    model = load_file(whole.model / "adapter_model.safetensors")
    saved = load_file(whole.checkpoint(best) / "weights.safetensors")
    assert len(model) == len(saved)
    for name, value in model.items():
        assert value.equal(saved[name.replace(".weight", ".default.weight")])


def test_the_comparison_is_that_of_the_outcomes(whole: RunFolder) -> None:
    comparison = whole.comparison()
    assert isinstance(comparison, Comparison)
    base, tuned = whole.outcomes("base"), whole.outcomes("tuned")
    assert base is not None
    assert tuned is not None

    def mean(outcomes: list[Any]) -> float:
        return sum(s.value for o in outcomes for _, s in o.sampled) / sum(len(o.sampled) for o in outcomes)

    assert comparison.base.mean == pytest.approx(mean(base))
    assert comparison.tuned.mean == pytest.approx(mean(tuned))
    assert comparison.prompts == 6
    assert {"greedy", "success", "success_greedy", "component:chars", "component:words"} <= set(
        comparison.details
    )


@pytest.mark.parametrize("at", [1, 3, 12, 40, 75, 110, 128, 150])
def test_ten_steps_are_five_and_five(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path, at: int
) -> None:
    folder = RunFolder.create(tmp_path / "run", task())
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(at))
    run(folder)
    same(whole, folder)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_run_on_a_quantised_base(task: Callable[..., Settings], tmp_path: Path, bits: int) -> None:
    """Stopped and resumed it is the same run to the bit; its groups can be made again; it says what it is."""
    settings = task(model={"adapter": "qlora", "bits": bits})
    unbroken = RunFolder.create(tmp_path / "unbroken", settings)
    run(unbroken)
    folder = RunFolder.create(tmp_path / "run", settings)
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(60))
    run(folder)
    same(unbroken, folder)
    assert all(member.same for member in replay(folder, step=3))
    assert [e["text"] for e in folder.events() if e["name"] == "parameters"] == [
        load_policy(settings.model).share.text
    ]
    assert f"LoRA rank 4 on a base of {bits} bits" in (folder.model / "README.md").read_text()
    assert max(m["mismatch_mean"] for m in folder.metrics()) < 1e-5
    merged = tmp_path / "merged"  # the export asks it, as transformers reads it, and raises for another model
    assert export_model(folder, merged, merged=True, weights=choose_weights(folder)) < 1e-6
    assert "quantization_config" not in (merged / "config.json").read_text()


@pytest.mark.usefixtures("two_threads")
def test_stopped_again_and_again(task: Callable[..., Settings], tmp_path: Path) -> None:
    """In two lanes of micro-batches, as on a machine of two cores."""
    whole = RunFolder.create(tmp_path / "whole", task())
    run(whole)
    folder = RunFolder.create(tmp_path / "run", task())
    stops = 0
    while folder.comparison() is None:
        try:
            run(folder, pause=Pause(29))
        except Interrupted:
            stops += 1
    assert stops >= 4
    same(whole, folder)


CHILD = """
import sys
from pathlib import Path
from refine_rl.pipeline.train import run
from refine_rl.policy.load import load_policy
from refine_rl.progress import Quiet
from refine_rl.report.measured import later
from refine_rl.run import RunFolder
print("loaded", flush=True)
run(RunFolder.open(Path(sys.argv[1])))
"""


def killed_and_resumed(task: Settings, path: Path, whole: RunFolder, chance: random.Random) -> None:
    folder = RunFolder.create(path, task)
    child = begin(path, code=CHILD, stdout=PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"loaded\n"
    # Wait for a random line of the record, then a random moment more.
    wanted, deadline = chance.randint(0, 9), time.monotonic() + 60
    while len(folder.metrics()) < wanted and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(chance.random() * 0.15)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    run(folder)
    same(whole, folder)


@pytest.mark.parametrize("number", range(3))
def test_killed_and_resumed(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path, number: int
) -> None:
    killed_and_resumed(task(), tmp_path / "run", whole, random.Random(time.time_ns()))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(25))
def test_killed_and_resumed_many_times(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path, number: int
) -> None:
    killed_and_resumed(task(), tmp_path / "run", whole, random.Random(number))


def test_a_torn_line_and_half_a_step_are_made_again(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run", task())
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(70))
    groups = (folder.path / "groups.jsonl").read_text().splitlines(keepends=True)
    # The last step's groups were written in part, the newest metrics line is torn, and a checkpoint was
    # being written: what a power cut may leave.
    (folder.path / "groups.jsonl").write_text("".join(groups[:-2]) + groups[-2][:50])
    with (folder.path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 99, "rew')
    (folder.path / "checkpoints" / ".step-000099.1").mkdir()
    for step in folder.checkpoints()[-1:]:
        shutil.rmtree(folder.checkpoint(step))
    run(folder)
    same(whole, folder)


def test_a_reader_sees_whole_lines_only(whole: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    lines = (whole.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:9])
    assert [m["step"] for m in RunFolder.open(tmp_path).metrics()] == [1, 2]


def test_two_writers_are_refused(whole: RunFolder) -> None:
    with whole.writing(), pytest.raises(UserError, match="another process"):
        run(whole)


def test_a_used_folder_is_refused(whole: RunFolder, task: Callable[..., Settings]) -> None:
    with pytest.raises(UserError, match="already exists"):
        RunFolder.create(whole.path, task())


def test_a_guard_saves_and_reports(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", task(rollout={"max_tokens": 2}, grpo={"all_cut_patience": 1}))
    with pytest.raises(GuardStop, match="max_tokens = 2"):
        run(folder)
    assert folder.events()[-1]["name"] == "all_cut"
    page = (folder.path / "report.html").read_text()
    assert "Start anew with a larger rollout.max_tokens" in page
    assert folder.checkpoints()
    folder.config.save(override(folder.settings(), ["grpo.all_cut_patience=99"]))
    assert isinstance(run(folder), Comparison)


def test_a_reward_that_fails_stops_before_training(task: Callable[..., Settings], tmp_path: Path) -> None:
    def broken(prompt: str, completion: str) -> float:
        raise RuntimeError("no such service")

    folder = RunFolder.create(tmp_path / "run", task())
    with pytest.raises(GuardStop, match="no such service"):
        run(folder, functions=[broken])
    assert folder.metrics() == []


def test_a_reward_that_sometimes_fails_loses_members_not_rewards(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    def flaky(prompt: str, completion: str) -> float:
        if len(completion) % 3 == 0:
            raise RuntimeError("now and then")
        return 1.0

    settings = task(reward={"rules": [{"rule": "chars", "max": 12}], "max_missing": 1.0}, grpo={"steps": 3})
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder, functions=[flaky])
    members = [t for g in folder.groups() for t in g["trajectories"]]
    missing = [t for t in members if t["status"] == "missing"]
    assert missing
    assert all(t["reward"] is None and t["advantage"] is None for t in missing)
    assert all("now and then" in t["explanation"] for t in missing)
    # Had a failure counted as 0, flaky's mean would be far below 1.
    assert all(m["components"]["flaky"] == 1.0 for m in folder.metrics())


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"adapter": "none"}, "grpo": {"learning_rate": 1e-3, "kl": 0.05}},
        {
            "grpo": {
                "kl": 0.1,
                "kl_in": "reward",
                "kl_estimator": "k1",
                "loss": "dr_grpo",
                "advantage": "mean",
            }
        },
        {"grpo": {"loss": "dapo", "advantage": "gdpo", "updates_per_step": 2, "schedule": "cosine"}},
        {
            "model": {"dropout": 0.1, "dtype": "bfloat16"},
            "rollout": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
        },
        {"prompts": {"validation": 0}, "reward": {"overlong": {"limit": 8, "buffer": 4}}},
        {"rollout": {"ahead": 1}, "grpo": {"steps": 8, "checkpoint_every": 4, "validate_every": 0}},
        {"rollout": {"ahead": 1}, "grpo": {"updates_per_step": 2, "kl": 0.1}, "model": {"dropout": 0.1}},
        {"model": {"dropout": 0.1, "gradient_checkpointing": True}},
        {"prompts": {"pool": "informative", "probe": 2, "train": 7}, "grpo": {"steps": 8}},
        {"prompts": {"pool": "informative", "train": 7}, "rollout": {"ahead": 1}, "grpo": {"steps": 8}},
        {"prompts": {"pool": "curriculum", "probe": 2, "train": 7}, "grpo": {"steps": 8}},
        {"prompts": {"pool": "curriculum", "train": 7}, "rollout": {"ahead": 1}, "grpo": {"steps": 8}},
        {"prompts": {"pool": "curriculum", "train": 12}, "grpo": {"steps": 8, "resample": 2}},
    ],
    ids=[
        "full",
        "kl-in-reward",
        "dapo-gdpo",
        "dropout-bf16-truncated",
        "no-validation-overlong",
        "ahead",
        "ahead-dropout",
        "dropout-checkpointing",
        "pool",
        "pool-ahead",
        "curriculum",
        "curriculum-ahead",
        "curriculum-resample",
    ],
)
def test_other_settings_run_and_resume_to_the_bit(
    task: Callable[..., Settings], tmp_path: Path, sections: dict[str, Any]
) -> None:
    folders = []
    grpo = {"steps": 4, "checkpoint_every": 2, **sections.get("grpo", {})}
    for name, pause in (("whole", None), ("stopped", Pause(62))):
        folder = RunFolder.create(tmp_path / name, task(**{**sections, "grpo": grpo}))
        if pause is not None:
            with pytest.raises(Interrupted):
                run(folder, pause=pause)
        run(folder)
        folders.append(folder)
    a, b = folders
    last = f"{grpo['steps']}"
    assert (a.checkpoint(int(last)) / "weights.safetensors").read_bytes() == (
        b.checkpoint(int(last)) / "weights.safetensors"
    ).read_bytes()
    assert a.comparison() == b.comparison()
    timeless = [
        [{k: v for k, v in m.items() if k not in ("seconds", "tokens_per_second")} for m in r.metrics()]
        for r in folders
    ]
    assert timeless[0] == timeless[1]
    assert a.pool() == b.pool()


THRIFT = {
    "prompts": {"pool": "informative", "facets": {"animal": WORDS[:2]}, "validation": 0},
    "rollout": {"ahead": 1, "temperature": 0.5},
    "grpo": {
        **{"steps": 6, "checkpoint_every": 3, "flat": "drop"},
        **{"minibatches": 2, "updates_per_step": 3, "kl_stop": 0.05, "replay": 2, "oversample": 2.0},
    },
}


@pytest.fixture(scope="module")
def thrift(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with all that makes more of a scored group, never stopped."""
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "thrift", task(**THRIFT))
    run(folder)
    return folder


def test_more_is_sampled_than_scored_and_a_step_ends_where_it_has_gone_far_enough(thrift: RunFolder) -> None:
    metrics, groups = thrift.metrics(), list(thrift.groups())
    for m in metrics:
        (line,) = [p for p in thrift.pool() if (p["state"], p["step"]) == ("sampled", m["step"])]
        assert line["scored"] == [g["prompt_id"] for g in groups if g["step"] == m["step"]]
        assert (m["groups_sampled"], m["groups"]) == (len(line["diversity"]), len(line["scored"])) == (6, 3)
        least = min(line["diversity"][name] for name in line["scored"])
        assert all(line["diversity"][name] <= least for name in {*line["diversity"]} - {*line["scored"]})
        assert 1 <= m["updates"] <= 6
    stopped = [m for m in metrics if m["updates"] < 6 and m["moved_kl"] > 0.05]
    assert stopped
    better = [
        sum(
            t["advantage"] is not None and t["advantage"] > 0
            for g in groups
            for t in g["trajectories"]
            if s(g)
        )
        for s in (lambda g, k=k: k - 2 <= g["step"] < k for k in range(1, 7))
    ]
    assert [m["replayed"] for m in metrics] == better
    assert better[0] == 0 < better[2]


@pytest.mark.parametrize("at", [25, 88])
def test_thrift_is_stopped_and_resumed_to_the_bit(
    thrift: RunFolder, task: Callable[..., Settings], tmp_path: Path, at: int
) -> None:
    folder = RunFolder.create(tmp_path / "run", task(**THRIFT))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(at))
    run(folder)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (thrift.checkpoint(6) / file).read_bytes() == (folder.checkpoint(6) / file).read_bytes()
    assert list(thrift.groups()) == list(folder.groups())
    assert thrift.pool() == folder.pool()
    timeless = [
        [{k: v for k, v in m.items() if k not in ("seconds", "tokens_per_second")} for m in r.metrics()]
        for r in (thrift, folder)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("step", [2, 6])
def test_thrift_is_made_again_to_the_token(thrift: RunFolder, step: int) -> None:
    """With the prompts that were not scored beside those that were, and earlier answers in the update."""
    again = replay(thrift, step=step)
    assert len(again) == 3 * 4
    assert all(member.same for member in again)


def test_positions_that_follow_the_length_of_a_text_are_held_for_a_run(
    task: Callable[..., Settings], make_model: MakeModel, tmp_path: Path
) -> None:
    """Prompts that lie on both sides of the border once they have an answer."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 28,
        "factor": 4.0,
    }

    class Listener(Quiet):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    settings = task(
        model={"name": str(make_model("llama", rope_parameters=rope))},
        rollout={"temperature": 0.7},
        grpo={"steps": 4, "checkpoint_every": 2},
    )
    folders, listener = [], Listener()
    for name, pause in (("whole", None), ("stopped", Pause(62))):
        folder = RunFolder.create(tmp_path / name, settings)
        if pause is not None:
            with pytest.raises(Interrupted):
                run(folder, pause=pause)
        run(folder, observer=listener)
        folders.append(folder)
    a, b = folders
    lengths = {len(g["prompt_tokens"]) for g in a.groups()}
    assert min(lengths) < 28 < max(lengths) + 10
    assert [n for n in listener.notes if "follow the length of a text (longrope)" in n]
    assert all(m["mismatch_mean"] < 1e-5 for m in a.metrics())
    for step in (2, 4):
        weights = [(f.checkpoint(step) / "weights.safetensors").read_bytes() for f in folders]
        assert weights[0] == weights[1]
    assert a.comparison() == b.comparison()
    assert all(member.same for member in replay(a, step=4))
    held_out = evaluate_again(a, name="again")[0]
    assert held_out.prompts == 6


def test_a_later_evaluation_looks_at_what_is_not_the_task(
    whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is asked for, and where the run did: base as it is on record, tuned anew."""
    few = {"neutral": probes.neutral()[:2], "instructions": probes.instructions()[:3]}
    for name, value in few.items():
        monkeypatch.setattr(probes, name, lambda value=value: value)
    plain = evaluate_again(whole, name="plain", samples=2)[0]
    assert plain.forgetting is None
    assert len(plain.curves["best"]) == 2
    asked = evaluate_again(whole, name="probed", samples=2, probes=True)[0].forgetting
    assert asked is not None
    assert asked.instructions == 3
    assert whole.probes("base") is None
    again = {e.name: e for e in later(whole)}
    assert any("Outside of the task" in line for line in again["probed"].said)
    assert not any("Outside of the task" in line for line in again["plain"].said)


def test_the_pool_sets_prompts_without_spread_aside_and_says_why(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    def mostly_flat(prompt: str, completion: str) -> float:
        return float(len(completion)) if "fish" in prompt or "river" in prompt else 0.0

    settings = task(
        prompts={"pool": "informative", "probe": 2, "train": 12},
        reward={"rules": []},
        grpo={"steps": 4, "zero_variance_patience": 99},
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder, functions=[mostly_flat])
    train = {p.id: p.text for p in folder.prompts() if p.split == "train"}
    flat = {name for name, text in train.items() if "fish" not in text and "river" not in text}
    informative = set(train) - flat
    assert len(informative) >= 2
    at_start = {r["prompt_id"]: r for r in folder.pool() if r["step"] == 1}
    assert set(at_start) >= flat
    assert at_start[min(flat)]["why"] == "both answers got 0.000 (never solved)"
    assert at_start[min(flat)]["state"] == "aside"
    first = {g["prompt_id"] for g in folder.groups() if g["step"] == 1}
    assert len(first & informative) == min(3, len(informative - set(at_start)))


def test_a_curriculum_finds_the_prompts_with_spread_and_says_what_it_wasted(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    def mostly_flat(prompt: str, completion: str) -> float:
        return float(len(completion)) if "fish" in prompt or "river" in prompt else 0.0

    class Listener(Quiet):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    settings = task(
        prompts={"pool": "curriculum", "train": 12},
        reward={"rules": []},
        grpo={"steps": 12, "zero_variance_patience": 99},
    )
    folder, listener = RunFolder.create(tmp_path / "run", settings), Listener()
    run(folder, functions=[mostly_flat], observer=listener)
    steps, metrics = folder.pool(), folder.metrics()
    assert [(line["step"], line["state"]) for line in steps] == [(n, "drawn") for n in range(1, 13)]
    for line in steps:
        groups = [g["prompt_id"] for g in folder.groups() if g["step"] == line["step"]]
        assert list(line["promised"]) == groups
        assert sum(line["pool"].values()) == 12
    assert steps[0]["pool"] == {"new": 12}
    assert set(steps[0]["promised"].values()) == {0.5}
    train = {p.id: p.text for p in folder.prompts() if p.split == "train"}
    spread = {name for name, text in train.items() if "fish" in text or "river" in text}
    drawn = [name for line in steps[6:] for name in line["promised"]]
    assert sum(name in spread for name in drawn) / len(drawn) > 1.3 * len(spread) / len(train)
    flat, last = sum(m["groups_zero_variance"] for m in metrics), steps[-1]["pool"]
    (told,) = [note for note in listener.notes if note.startswith("Curriculum: ")]
    assert told.startswith(f"Curriculum: {flat} of 36 groups had no spread; of 12 training prompts ")
    assert f"{last['promising']} are likely to give spread" in told
    assert "Training prompts by what their next group promises" in folder.report.read_text()


AHEAD: dict[str, dict[str, Any]] = {
    "rollout": {"ahead": 1},
    "grpo": {"steps": 8, "checkpoint_every": 4, "validate_every": 0, "learning_rate": 0.05},
}


@pytest.fixture(scope="module")
def ahead(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose steps are sampled while the one before is being scored, by a reward that takes its time."""
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "ahead", task(**AHEAD))
    run(folder, functions=[_waits(0)])
    return folder


def _waits(seed: int) -> Callable[..., Any]:
    """A reward whose answers come in an order of chance."""
    chance = random.Random(seed)

    async def slow(prompt: str, completion: str) -> float:
        await asyncio.sleep(chance.random() * 0.05 if seed else 0)
        return len(completion) / 20

    return slow


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_in_which_scores_arrive_changes_nothing(
    ahead: RunFolder, task: Callable[..., Settings], tmp_path: Path, seed: int
) -> None:
    folder = RunFolder.create(tmp_path / "run", task(**AHEAD))
    run(folder, functions=[_waits(seed)])
    for step in ahead.checkpoints():
        weights = [(f.checkpoint(step) / "weights.safetensors").read_bytes() for f in (ahead, folder)]
        assert weights[0] == weights[1]
    assert list(ahead.groups()) == list(folder.groups())
    assert ahead.comparison() == folder.comparison()


def test_ahead_samples_with_weights_one_update_older_but_after_checkpoints(
    ahead: RunFolder, task: Callable[..., Settings]
) -> None:
    """The recorded log-probs are those of the weights that the rule names, and of no others."""
    settings = ahead.settings()
    assert [schedule_of(settings).sampled_after(s) for s in range(1, 9)] == [0, 0, 1, 2, 4, 4, 5, 6]
    steps = ahead.recorded_steps()
    # A checkpoint of every step, from the record alone.
    policy = load_policy(settings.model, seed=0, keep_reference=False)
    differences = {}
    for after in (0, 4):
        if after:
            checkpoint.load(ahead.checkpoint(after), policy)
        for step in (2, 3, 5, 6, 7):
            found = check.difference(policy, steps[step][0].trajectories, 1.0)
            differences[after, step] = float(found.mean())
    assert max(differences[0, 2], differences[4, 5], differences[4, 6]) < 1e-5
    assert min(differences[0, 3], differences[4, 7], differences[4, 2]) > 1e-4
    assert all(m["mismatch_mean"] < 1e-5 for m in ahead.metrics())


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_ahead_is_replayed_to_the_token(ahead: RunFolder, step: int) -> None:
    assert all(member.same for member in replay(ahead, step=step))


def test_ahead_overlaps_scoring_with_sampling_and_training(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    """The second step's groups are sent while the first step's scores are still waited for."""
    held_out, groups = 6, 3
    second, begun = asyncio.Event(), 0

    async def waits(prompts: list[str], completions: list[str]) -> list[float]:
        nonlocal begun
        number, begun = begun, begun + 1
        if number == held_out + groups:
            second.set()
        elif number >= held_out:
            await asyncio.wait_for(second.wait(), 60)
        return [len(c) / 20 for c in completions]

    settings = task(
        **{**AHEAD, "prompts": {"validation": 0}, "grpo": {"steps": 4, "checkpoint_every": 99}},
        reward={"rules": []},
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder, functions=[waits])
    assert second.is_set()
    assert all(t["status"] == "scored" for g in folder.groups() for t in g["trajectories"])


def test_it_learns(task: Callable[..., Settings], tmp_path: Path) -> None:
    def vowels(prompt: str, completion: str) -> float:
        return min(1.0, sum(completion.count(v) for v in "aeiou") / 10)

    settings = task(
        model={"rank": 8},
        reward={"rules": []},
        grpo={"steps": 30, "prompts_per_step": 8, "validate_every": 10},
        rollout={"group_size": 8},
    )
    comparison = run(RunFolder.create(tmp_path / "run", settings), functions=[vowels])
    assert comparison.verdict == "better"
    assert comparison.base.ci95[1] < comparison.tuned.ci95[0]
    assert comparison.tuned.mean > 2 * comparison.base.mean


def test_a_resume_refuses_another_reward_and_says_what_else_has_changed(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = task(reward={"functions": ["mine.py:score"]}, grpo={"steps": 2})
    code = "def score(prompt, completion):\n    return float(len(completion) < 9)\n"
    (settings.folder / "mine.py").write_text(code)
    folder = RunFolder.create(tmp_path / "run", settings)
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(40))
    config = folder.path / "config.toml"
    config.write_text(
        config.read_text().replace(f'torch = "{folder.config.versions()["torch"]}"', 'torch = "2.0.0"')
    )
    (settings.folder / "mine.py").write_text(code.replace("9", "8"))
    with pytest.raises(UserError, match=r"mine\.py has changed since the base model was scored"):
        run(folder)
    reopen(folder.path, [], from_step=0)
    assert folder.metrics() == folder.validation() == []
    assert folder.outcomes("base") is None
    run(folder)
    warned = [e["text"] for e in folder.events() if e["name"] == "changed"]
    assert any("torch was 2.0.0" in text for text in warned)
    base = folder.outcomes("base")
    assert base
    for outcome in base:
        for t, s in outcome.sampled:
            assert s.breakdown["score"] == float(len(t.completion) < 8)


def test_a_reward_may_be_mended_before_anything_is_scored(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = task(reward={"rules": [], "functions": ["broken.py:score"]}, grpo={"steps": 1})
    (settings.folder / "broken.py").write_text("def score(prompt, completion):\n    return 1 / 0\n")
    folder = RunFolder.create(tmp_path / "run", settings)
    with pytest.raises(GuardStop, match="ZeroDivisionError"):
        run(folder)
    (settings.folder / "broken.py").write_text("def score(prompt, completion):\n    return len(completion)\n")
    run(folder)
    assert len(folder.metrics()) == 1


def test_training_ends_early_where_nothing_is_left_to_win(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = task(
        reward={"rules": [{"rule": "chars", "min": 1}, {"rule": "not_copy", "weight": 0.0}]},
        grpo={"prompts_per_step": 4},
    )
    folders = []
    for name in ("whole", "stopped"):
        folder = RunFolder.create(tmp_path / name, settings)
        if name == "stopped":  # in the middle of the tuned evaluation
            with pytest.raises(Interrupted):
                run(folder, pause=Pause(85))
            assert [m["step"] for m in folder.metrics()] == [1, 2, 3]
            assert folder.outcomes("tuned") is None
        run(folder)
        folders.append(folder)
    whole, stopped = folders
    assert [m["step"] for m in stopped.metrics()] == [1, 2, 3]
    assert [v["step"] for v in stopped.validation()] == [0, 3]
    assert stopped.comparison() == whole.comparison()
    for folder in folders:  # good news, once, and no warning
        assert [e["kind"] for e in folder.events() if e["name"] == "done_early"] == ["note"]
        assert "training ended after 3 steps" in folder.report.read_text()


def test_the_number_format_that_was_found_is_kept(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", task(model={"dtype": "auto"}, grpo={"steps": 1}))
    run(folder)
    assert folder.settings().model.dtype in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"prompts": {"source": "file:absent.jsonl"}}, "no such file"),
        ({"grpo": {"prompts_per_step": 50}}, "only 35 training prompts"),
        ({"rollout": {"max_tokens": 300}}, "reads 256 tokens in all"),
        (
            {"rollout": {"early_exit": {"ends": "and so the end", "answer_tokens": 9}}},
            r"max_tokens = 10 leaves no room for a thought beside the \d+ tokens",
        ),
        ({"model": {"name": "./absent"}}, "no such folder"),
        ({"reward": {"rules": [{"rule": "equals", "data": "answer"}]}}, "answer"),
        ({"reward": {"sanity": [{"prompt": "x", "good": "a very long answer", "bad": "no"}]}}, "long answer"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(
    task: Callable[..., Settings], tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    folder = RunFolder.create(tmp_path / "run", task(**sections))
    with pytest.raises(UserError, match=words):
        run(folder)
    folder.abandon()
    assert not folder.path.exists()


def test_prompts_too_long_are_set_aside(task: Callable[..., Settings], tmp_path: Path) -> None:
    whole = RunFolder.create(tmp_path / "whole", task(grpo={"steps": 1}))
    run(whole)
    policy = load_policy(whole.settings().model)
    lengths = sorted(len(policy.encode(p.messages)) for p in whole.prompts())
    limit = lengths[len(lengths) * 3 // 4]
    folder = RunFolder.create(tmp_path / "run", task(prompts={"max_tokens": limit}, grpo={"steps": 1}))
    run(folder)
    note = next(e["text"] for e in folder.events() if e["kind"] == "curation")
    longer = sum(n > limit for n in lengths)
    assert longer > 0
    assert f"{longer} prompts set aside: longer than {limit} tokens" in note
    assert sorted(len(policy.encode(p.messages)) for p in folder.prompts()) == lengths[:-longer]


def test_new_settings_count_from_the_newest_checkpoint(task: Callable[..., Settings], tmp_path: Path) -> None:
    """Killed between checkpoints and resumed with another learning rate: the steps recorded since were
    made under the old one, and must not be mixed with the new."""
    schedule = {"schedule": "cosine", "validate_every": 0}
    folder = RunFolder.create(tmp_path / "run", task(grpo=schedule))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(112))
    shutil.rmtree(folder.checkpoint(folder.checkpoints()[-1]))  # as if killed instead of interrupted
    assert folder.checkpoints() == [4]
    assert max(m["step"] for m in folder.metrics()) > 4
    reopen(folder.path, ["grpo.learning_rate=0.001"])
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3, 4]
    assert {g["step"] for g in folder.groups()} == {1, 2, 3, 4}
    run(folder)
    rates = [m["learning_rate"] for m in folder.metrics()]
    assert len(rates) == 10
    assert rates[3] > 0.01
    assert max(rates[4:]) < 0.001


def test_more_budget_takes_no_step_back(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path
) -> None:
    """No result depends on a cap or on where LLMs answer: what is on record stays, and is not paid again."""
    folder = RunFolder.create(tmp_path / "run", task())
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(112))
    shutil.rmtree(folder.checkpoint(folder.checkpoints()[-1]))
    steps, base = [m["step"] for m in folder.metrics()], folder.outcomes("base")
    assert max(steps) > max(folder.checkpoints())
    reopen(folder.path, ["budget.dollars=2.5", 'endpoints.mine.base_url="http://127.0.0.1:1/v1"'])
    assert folder.settings().budget.dollars == 2.5
    assert ([m["step"] for m in folder.metrics()], folder.outcomes("base")) == (steps, base)
    run(folder)
    same(whole, folder)


def test_one_answer_a_prompt_and_an_evaluation_with_draws_of_its_own(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    folder = RunFolder.create(
        tmp_path / "run", task(grpo={"steps": 1, "seed": 3}, evaluate={"samples": 1, "bootstrap": 100})
    )
    run(folder)
    assert folder.validation()[0]["prompts_with_spread"] == 0  # there is nothing that could differ
    assert "no_start" not in [e["name"] for e in folder.events()]
    default, _ = evaluate_again(folder, name="a")
    assert default == evaluate_again(folder, seed=4, name="b")[0]
    assert default != folder.comparison()
    with pytest.raises(UserError, match="--seed 3 is the run's own"):
        evaluate_again(folder, seed=3)


def test_back_to_an_earlier_checkpoint(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run", task())
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(118))
    first = folder.checkpoints()[0]
    assert len(folder.checkpoints()) > 1
    with pytest.raises(UserError, match=f"it has 0, {first}"):
        reopen(folder.path, [], from_step=5)
    with pytest.raises(UserError, match=f"it has 0, {first}"):  # also where no run of these settings has it
        reopen(folder.path, [], from_step=77)
    reopen(folder.path, [], from_step=first)
    assert folder.checkpoints() == [first]
    assert [m["step"] for m in folder.metrics()] == list(range(1, first + 1))
    run(folder)
    same(whole, folder)
    with pytest.raises(UserError, match="held-out prompts are read"):
        reopen(folder.path, ["grpo.steps=20"])


def test_the_cap_on_hours_counts_everything(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", task(budget={"hours": 1e-6}))
    with pytest.raises(GuardStop, match=r"budget\.hours"):
        run(folder)
    assert [m["step"] for m in folder.metrics()] == [1]
    assert folder.checkpoints() == [1]


def test_the_cap_on_hours_counts_steps_that_no_checkpoint_holds(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    """Killed between two checkpoints, again and again, a run may not have its hours anew each time."""
    folder = RunFolder.create(tmp_path / "run", task(grpo={"validate_every": 0, "checkpoint_every": 9}))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(112))
    shutil.rmtree(folder.checkpoint(folder.checkpoints()[-1]))  # as if killed instead of interrupted
    file = folder.path / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["seconds"]["total"] = 3600.0
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reopened = override(folder.settings(), ["budget.hours=2.0"])
    folder.config.save(reopened)
    with pytest.raises(GuardStop, match=r"Step 1: the 2 hours of budget\.hours"):
        run(folder)


def test_what_each_stage_asks_of_the_sampler(
    task: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rollouts follow [rollout]; evaluations draw at temperature 1 from everything; each reads its split."""
    from refine_rl.policy import policy as module

    seen: list[tuple[str, Any, set[str]]] = []
    speak = module.speak

    def spy(policy: Any, groups: Any, **options: Any) -> Any:
        splits = {b.prompt.split for group in groups for b in group}
        seen.append((options["purpose"].name, options["sampling"], splits))
        return speak(policy, groups, **options)

    monkeypatch.setattr(module, "speak", spy)
    rollout = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}
    run(RunFolder.create(tmp_path / "run", task(rollout=rollout, grpo={"steps": 2, "validate_every": 1})))
    for name, sampling, splits in seen:
        drawn = (sampling.temperature, sampling.top_p, sampling.top_k)
        if name == "rollout":
            assert drawn == (0.7, 0.9, 40)
            assert splits == {"train"}
        else:
            assert drawn[0] in (0.0, 1.0)
            assert drawn[1:] == (1.0, 0)
            assert splits == {name}
    assert [name for name, _, _ in seen].count("held_out") == 4  # base and tuned, sampled and greedy
    assert {name for name, _, _ in seen} == {"rollout", "validation", "held_out"}


def test_a_finished_run_says_so_and_asks_nothing_anew(
    whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(shutil.copytree(whole.path, tmp_path / "my run")))
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}

    class Told(Quiet):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.notes.append(text)

    def never_called(*_: object, **__: object) -> None:
        raise AssertionError("there is nothing to load")

    monkeypatch.setattr("refine_rl.pipeline.train.prepare", never_called)
    assert run(folder, observer=Told()) == whole.comparison()
    (said,) = Told.notes
    assert said.startswith(f"{folder.path} is finished: nothing is left to train.")
    assert said.endswith(f"refine eval '{folder.path}'")
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before
    (folder.path / "report.html").unlink()
    run(folder)
    assert folder.report.is_file()
