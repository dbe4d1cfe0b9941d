"""Runs in two processes: the weights of one process to rounding, of two to the bit; stopped and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from make import Pause, prompt
from models import listening_model
from refine_rl.engines.base import Loading
from refine_rl.engines.processes import crew
from refine_rl.engines.processes.engine import _load, processes_engine
from refine_rl.engines.processes.hand import Hand
from refine_rl.engines.processes.orders import Move
from refine_rl.engines.processes.place import Place
from refine_rl.envs.play import sample
from refine_rl.errors import GuardStop, Interrupted, MachineError, UserError
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.sft import run as run_sft
from refine_rl.pipeline.train import run
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose
from refine_rl.progress import never
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.grpo.setup import learner_config, loss_of
from refine_rl.training.rows import Row

Task = Callable[..., Settings]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
STEPS = 4
WORLD = """
class Shorter:
    def start(self, data, seed):
        self.limit = 20
        return "at most 20"

    def step(self, reply):
        over = len(reply) > self.limit
        self.limit = len(reply) - 1
        return f"now at most {self.limit}", -0.1 * len(reply), over
"""


@pytest.fixture(scope="module", autouse=True)
def _one_team() -> Iterator[None]:
    """The other process stays from one test to the next: it takes seconds to come."""
    crew.acquire(2, 60)
    yield
    crew.release()


@pytest.fixture(scope="module")
def task(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Task:
    """task(processes, **sections) -> settings of a run of a second or two, of a random model whose every
    fifth token ends an answer."""
    folder = tmp_path_factory.mktemp("task")
    model = folder / "model"
    shutil.copytree(make_model("llama"), model)
    config = json.loads((model / "generation_config.json").read_text())
    ends = {"eos_token_id": list(range(100, 280, 5))}
    (model / "generation_config.json").write_text(json.dumps({**config, **ends}))
    lines = [
        {"prompt": f"say something about the {a} and a {b}", "answer": f"{a} {a}"}
        for a in WORDS
        for b in WORDS
        if a < b
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "world.py").write_text(WORLD)

    def make(processes: int = 2, /, **sections: dict[str, Any]) -> Settings:
        usual: dict[str, dict[str, Any]] = {
            "model": {"name": str(model), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:prompts.jsonl", "validation": 4, "held_out": 6},
            "reward": {"rules": [{"rule": "chars", "max": 12}, {"rule": "words", "min": 1, "max": 2}]},
            "rollout": {"group_size": 4, "max_tokens": 10},
            "engine": {"processes": processes},
            "grpo": {
                "steps": STEPS,
                "prompts_per_step": 3,
                "learning_rate": 0.01,
                "checkpoint_every": 2,
                "validate_every": 2,
                "all_cut_patience": 99,
                "tokens_per_micro_batch": 256,
            },
            "evaluate": {"samples": 2, "bootstrap": 200},
        }
        for name, values in sections.items():
            usual[name] = {**usual.get(name, {}), **values}
        return settings_from_dict({"task": "Be short.", **usual}, folder)

    return make


SFT = {
    "data": "file:prompts.jsonl",
    "steps": 4,
    "batch_tokens": 200,
    "learning_rate": 0.01,
    "validate_every": 2,
    "validation": 8,
    "dropout": 0.0,  # it draws by process
}


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.checkpoint(folder.checkpoints()[-1]) / "weights.safetensors")


def close(a: RunFolder, b: RunFolder, by: float = 2e-4) -> None:
    """The same training, but for rounding: tokens, and weights up to `by` of an update's size."""
    said = [[t["tokens"] for group in folder.groups() for t in group["trajectories"]] for folder in (a, b)]
    assert said[0] == said[1]
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= by, name


def same(a: RunFolder, b: RunFolder) -> None:
    """The same to the bit."""
    for file in ("weights.safetensors", "optimizer.safetensors"):
        last = a.checkpoints()[-1]
        assert (a.checkpoint(last) / file).read_bytes() == (b.checkpoint(last) / file).read_bytes(), file
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json"):
        assert (a.path / file).read_text() == (b.path / file).read_text(), file


def trained(path: Path, settings: Settings) -> RunFolder:
    folder = RunFolder.create(path, settings)
    run(folder)
    return folder


@pytest.fixture(scope="module")
def two(task: Task, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("runs") / "two", task())


def test_two_processes_train_what_one_does(two: RunFolder, task: Task, tmp_path: Path) -> None:
    one = trained(tmp_path / "one", task(1))
    close(one, two)
    for ours, theirs in zip(one.metrics(), two.metrics(), strict=True):
        for name in ("loss", "grad_norm", "kl", "clip_share", "reward_mean", "mismatch_mean"):
            assert theirs[name] == pytest.approx(ours[name], abs=1e-5), name
    assert two.comparison().base == one.comparison().base  # type: ignore[union-attr]


def test_a_run_that_cannot_begin_lets_the_others_go(task: Task, tmp_path: Path) -> None:
    """Nobody would end them in a notebook, which lives on."""
    settings = task(rollout={"max_tokens": 100_000})
    before = crew._HERE.engines
    with pytest.raises(UserError, match=r"rollout\.max_tokens"):
        run(RunFolder.create(tmp_path / "run", settings))
    assert crew._HERE.engines == before


def test_two_runs_are_the_same_to_the_bit(two: RunFolder, task: Task, tmp_path: Path) -> None:
    same(two, trained(tmp_path / "again", task()))


@pytest.mark.parametrize("at", [30, 60])
def test_stopped_and_resumed_to_the_bit(two: RunFolder, task: Task, tmp_path: Path, at: int) -> None:
    folder = RunFolder.create(tmp_path / "run", task())
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(at))
    run(folder)
    same(two, folder)


def test_resumed_in_one_process_and_in_two_again(two: RunFolder, task: Task, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", task())
    stops = 0
    for processes in (2, 1, 2, 1, 2):
        if folder.outcomes("tuned") is not None:  # how often a pause is asked for depends on the machine
            break
        try:
            run(reopen(folder.path, [f"engine.processes={processes}"], None), pause=Pause(40))
        except Interrupted:
            stops += 1
    assert stops >= 2
    run(folder)
    close(two, folder)


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"grpo": {"kl": 0.2, "steps": 2}}, id="KL in the loss"),
        pytest.param({"grpo": {"kl": 0.2, "kl_in": "reward", "steps": 2}}, id="KL in the reward"),
        pytest.param(
            {
                "grpo": {"updates_per_step": 2, "minibatches": 2, "kl_stop": 0.5, "replay": 1, "steps": 2},
                "model": {"dropout": 0.0},
            },
            id="updates",
        ),
        pytest.param({"model": {"adapter": "none"}, "grpo": {"steps": 2, "learning_rate": 1e-3}}, id="all"),
        pytest.param({"model": {"adapter": "qlora"}, "grpo": {"steps": 2}}, id="quantised"),
        pytest.param({"sft": SFT, "grpo": {"steps": 2}}, id="after fine-tuning"),
    ],
)
def test_other_ways_of_training(task: Task, tmp_path: Path, sections: dict[str, Any]) -> None:
    close(trained(tmp_path / "one", task(1, **sections)), trained(tmp_path / "two", task(2, **sections)))


def test_an_encoder_decoder(task: Task, tmp_path: Path) -> None:
    model = {"name": str(listening_model(tmp_path / "t5"))}
    sections = {"model": model, "grpo": {"steps": 2}}
    close(trained(tmp_path / "one", task(1, **sections)), trained(tmp_path / "two", task(2, **sections)))
    with pytest.raises(UserError, match="spreads the frozen weights of a decoder-only"):
        trained(tmp_path / "spread", task(2, **sections, engine={"shard": True}))


def test_dropout_is_the_same_for_as_many_processes(task: Task, tmp_path: Path) -> None:
    settings = task(2, model={"dropout": 0.3}, grpo={"steps": 2})
    same(trained(tmp_path / "a", settings), trained(tmp_path / "b", settings))


@pytest.mark.parametrize(
    "model", [pytest.param({}, id="plain"), pytest.param({"gradient_checkpointing": True}, id="recomputed")]
)
def test_a_model_spread_over_both(two: RunFolder, task: Task, tmp_path: Path, model: dict[str, Any]) -> None:
    """Neither has the whole model. Three groups for two give one of them passes over nothing."""
    folder = RunFolder.create(tmp_path / "run", task(2, engine={"shard": True}, model=model))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(50))
    run(folder)
    close(two, folder)
    adapter = "adapter_model.safetensors"
    assert (folder.model / adapter).stat().st_size == (two.model / adapter).stat().st_size


def test_of_a_spread_model_a_process_has_a_part(task: Task) -> None:
    settings = task(2, engine={"shard": True})
    place = Place(rank=0, size=2, local_rank=0, local_size=2)
    loading = Loading(
        model=settings.model, seed=0, adapter_from=None, keep_reference=False, moment=datetime(2026, 1, 2)
    )
    with closing(processes_engine(settings.engine, place, loading)) as engine:
        layers = [
            p for n, p in engine.policy.model.named_parameters() if ".layers." in n and not p.requires_grad
        ]
        assert sum(p.numel() for p in layers) == 2 * sum(p.to_local().numel() for p in layers) > 0
        assert all(type(p) is torch.nn.Parameter for p in engine.policy.trainable().values())
        assert "a part of the frozen weights" in engine.notes[0]


def test_who_cannot_load_a_model_to_be_spread_says_so(task: Task) -> None:
    """Before the first process waits for it in a collective, where it would until engine.timeout."""
    settings, team, place = task(2), crew.acquire(2, 60), Place(rank=0, size=2, local_rank=0, local_size=2)
    loading = Loading(
        model=settings.model, seed=0, adapter_from=None, keep_reference=False, moment=datetime(2026, 1, 2)
    )
    hand = Hand(place=place, policy=loading.policy())
    elsewhere = replace(loading, model=settings.model.model_copy(update={"name": "./not-here"}))
    try:
        with pytest.raises(UserError, match=r"Process 1 of 2 .*not-here"):
            _load(team, hand, 99, elsewhere, "cpu")
    finally:
        crew.release()


def test_several_turns(task: Task, tmp_path: Path) -> None:
    sections = {
        "rollout": {"environment": "world.py:Shorter", "turns": 3, "trajectory_tokens": 90},
        "grpo": {"steps": 2},
    }
    one, two = (trained(tmp_path / str(n), task(n, **sections)) for n in (1, 2))
    close(one, two)
    turns = [len(t["spans"]) for g in two.groups() for t in g["trajectories"]]
    assert max(turns) == 5


def test_supervised_fine_tuning(task: Task, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        folder = RunFolder.create(tmp_path / str(processes), task(processes, sft=SFT), kind="sft")
        run_sft(folder)
        found.append(folder)
    ours, theirs = (weights(folder) for folder in found)
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= 2e-4, name
    losses = [[m.validation_loss for m in folder.sft_history()] for folder in found]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_process_with_other_weights_is_found(task: Task) -> None:
    """By the log-probs of what it sampled, which the others compute anew, and by the weights' check sum."""
    settings = task()
    place = Place(rank=0, size=2, local_rank=0, local_size=2)
    loading = Loading(
        model=settings.model, seed=0, adapter_from=None, keep_reference=False, moment=datetime(2026, 1, 2)
    )
    config = replace(learner_config(settings), tokens=200)
    with closing(processes_engine(settings.engine, place, loading)) as engine:

        def rows(step: int) -> list[Row]:
            some = [prompt(n, f"say something about {word}") for n, word in enumerate(WORDS[:5])]
            purpose = Purpose(seed=0, step=step, name="rollout")
            groups = sample(
                engine.speaker, some, members=4, sampling=Sampling(max_tokens=10), purpose=purpose
            )
            return [Row(trajectory=t, advantage=(-1.0) ** t.member, weight=0.01) for g in groups for t in g]

        learner = engine.learner(config)
        loss = loss_of(settings).objective(0.0)
        learned = learner.learn(rows(1), loss, step=1, rate=0.01, pause=never)
        assert float(learned.seen.mean()) < 1e-5  # type: ignore[union-attr]
        learner.take(rows(2))
        learner.gradient(loss, 2, 0, never)
        with engine.team.asked({1: Move(model=engine.number, rate=0.05, norm=1.0)}) as asked:
            asked.wait()  # the other one alone
        with pytest.raises(GuardStop, match="sampler and trainer disagree") as stop:
            learner.learn(rows(3), loss, step=3, rate=0.01, pause=never)
        assert stop.value.guard == "mismatch"
        careless = engine.learner(replace(config, allowed=1e9))
        with pytest.raises(MachineError, match="The weights of process 1 are not those of the first one"):
            careless.learn(rows(3), loss, step=3, rate=0.01, pause=never)
