"""Runs of supervised fine-tuning on a small random model: files, losses, resuming, stopping."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from make import Pause, Told
from refine_rl.errors import GuardStop, Interrupted, UserError
from refine_rl.pipeline.evaluate import evaluate_again
from refine_rl.pipeline.export import export_model
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.resume import reopen, reopen_sft
from refine_rl.pipeline.sft import run
from refine_rl.pipeline.sft_outcome import Losses, losses_of
from refine_rl.pipeline.train import run as run_train
from refine_rl.pipeline.weights import choose_weights
from refine_rl.policy.load import load_policy
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.sft.loop import train

MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]


@pytest.fixture(scope="module")
def task(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """task(**of sft) -> settings of a run of a second: the answer is the first word, twice."""
    folder = tmp_path_factory.mktemp("task")
    lines = [{"prompt": f"say {a} and {b}", "answer": f"{a} {a}"} for a in WORDS for b in WORDS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    long = [{"prompt": "xq" * 60, "answer": "dog"}, {"prompt": "say", "answer": "xq" * 60}, *lines[:20]]
    (folder / "long.jsonl").write_text("".join(json.dumps(line) + "\n" for line in long))

    def make(
        model: dict[str, Any] | None = None, budget: dict[str, Any] | None = None, **sft: Any
    ) -> Settings:
        usual: dict[str, Any] = {
            "data": "file:pairs.jsonl",
            "steps": 10,
            "batch_tokens": 200,
            "learning_rate": 0.02,
            "checkpoint_every": 4,
            "validate_every": 3,
            "examples": 2,
        }
        own = {
            "name": str(make_model("llama")),
            "device": "cpu",
            "dtype": "float32",
            "rank": 4,
            **(model or {}),
        }
        tables = {"model": own, "sft": {**usual, **sft}, "rollout": {"max_tokens": 8}, "budget": budget or {}}
        return settings_from_dict({"task": "Twice.", **tables}, folder)

    return make


def begun(path: Path, settings: Settings) -> RunFolder:
    return RunFolder.create(path, settings, kind="sft")


def same(a: RunFolder, b: RunFolder) -> None:
    """Two runs have the same content, to the bit, apart from clocks."""
    last = a.checkpoints()[-1]
    assert last == b.checkpoints()[-1]
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (a.checkpoint(last) / file).read_bytes() == (b.checkpoint(last) / file).read_bytes()
    for file in ("validation.jsonl", "examples.jsonl"):
        assert (a.path / file).read_text() == (b.path / file).read_text(), file
    weights = "adapter_model.safetensors"
    assert (a.model / weights).read_bytes() == (b.model / weights).read_bytes()
    timeless = [[{**m, "seconds": None} for m in r.metrics()] for r in (a, b)]
    assert timeless[0] == timeless[1]


@pytest.fixture(scope="module")
def whole(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was never stopped."""
    folder = begun(tmp_path_factory.mktemp("runs") / "whole", task())
    run(folder)
    return folder


def test_everything_is_on_record(whole: RunFolder) -> None:
    metrics = whole.metrics()
    assert [m["step"] for m in metrics] == list(range(1, 11))
    looks = {v["step"]: v["loss"] for v in whole.validation()}
    assert list(looks) == [0, 3, 6, 9, 10]
    assert [m["validation_loss"] for m in metrics] == [looks.get(step) for step in range(1, 11)]
    assert all(0 < m["targets"] < m["tokens"] <= 200 for m in metrics)
    assert metrics[-1]["epoch"] == sum(m["rows"] for m in metrics) / 90
    assert looks[10] < looks[0] - 1

    losses = losses_of(whole)
    best = min((step for step in looks if step), key=lambda step: looks[step])
    assert losses == Losses(
        before=looks[0], after=looks[best], training=metrics[-1]["loss"], step=best, steps=10
    )
    examples = whole.examples()
    assert [e["answer"].split()[0] == e["prompt"][0]["content"].split()[1] for e in examples] == [True, True]
    assert all(e["before"] != e["after"] for e in examples)
    assert "Validation loss" in (whole.model / "README.md").read_text()
    assert "kept" in whole.report.read_text()


def test_the_model_is_that_of_the_best_look(whole: RunFolder, task: Callable[..., Settings]) -> None:
    """As peft loads it: its loss on the validation rows is the one on record."""
    import torch

    from refine_rl.pipeline.sft_prepare import prepare_sft
    from refine_rl.progress import Quiet
    from refine_rl.run.journal import Journal
    from refine_rl.training.sft.learn import mean_loss

    ready = prepare_sft(whole, Journal(whole, Quiet()), ())
    tuned = load_policy(
        ModelSettings(name=str(whole.model), device="cpu", dtype="float32"), seed=1
    )  # the adapter merged in
    with torch.no_grad():
        assert mean_loss(tuned, ready.validation, 2048) == pytest.approx(losses_of(whole).after, rel=1e-4)


def test_ten_steps_are_five_and_five(task: Callable[..., Settings], whole: RunFolder, tmp_path: Path) -> None:
    """The loop stops between two steps, and another process goes on from what is on the disk."""
    folder = begun(tmp_path / "half", task())
    with pytest.raises(Interrupted):
        run(folder, pause=_at_step(folder, 5))
    assert folder.recorded_to() == 5
    run(RunFolder.open(folder.path))
    same(whole, folder)


def test_what_was_lost_after_a_checkpoint_is_learned_again(
    task: Callable[..., Settings], whole: RunFolder, tmp_path: Path
) -> None:
    """As after a kill: the record has 7 steps, the newest checkpoint is that of step 6 (or is damaged)."""
    folder = begun(tmp_path / "killed", task())
    with pytest.raises(Interrupted):
        run(folder, pause=_at_step(folder, 7))
    assert folder.checkpoints()[-1] == 7
    shutil.rmtree(folder.checkpoint(7))
    weights = folder.checkpoint(6) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    run(RunFolder.open(folder.path))
    assert any(e["name"] == "damaged_checkpoint" for e in folder.events())
    same(whole, folder)


def _at_step(folder: RunFolder, step: int) -> Callable[[], None]:
    """Interrupts once so many steps are on record."""

    def pause() -> None:
        if len(folder.metrics()) == step:
            raise Interrupted("stop")

    return pause


@pytest.mark.slow
def test_a_run_survives_sigkill_at_any_moment(
    task: Callable[..., Settings], whole: RunFolder, tmp_path: Path
) -> None:
    folder = begun(tmp_path / "killed", task())
    code = (
        "import sys; from pathlib import Path; from refine_rl.run import RunFolder;"
        "from refine_rl.pipeline.sft import run; run(RunFolder.open(Path(sys.argv[1])))"
    )
    draws = random.Random(0)
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], env=os.environ)
        time.sleep(draws.uniform(4, 9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(RunFolder.open(folder.path))
    same(whole, folder)


def test_dropout_is_resumed_as_well(task: Callable[..., Settings], tmp_path: Path) -> None:
    """It is on by default; without it the steps are others."""
    assert task().sft_model.dropout == 0.1
    plain = begun(tmp_path / "plain", task(dropout=0.0, steps=2))
    dropped = begun(tmp_path / "dropped", task(steps=2))
    for folder in (plain, dropped):
        run(folder)
    assert plain.metrics()[1]["loss"] != dropped.metrics()[1]["loss"]


def test_patience_ends_it_and_a_resume_adds_nothing(task: Callable[..., Settings], tmp_path: Path) -> None:
    settings = task(learning_rate=0.5, schedule="constant", validate_every=1, patience=2, steps=40)
    folder = begun(tmp_path / "run", settings)
    losses = run(folder)
    looks = {v["step"]: v["loss"] for v in folder.validation()}
    assert losses.steps < 40
    assert losses.steps == losses.step + 2
    assert min(looks[losses.step + 1], looks[losses.step + 2]) >= looks[losses.step]
    assert [e["name"] for e in folder.events()].count("done_early") == 1
    before = folder.metrics()
    assert run(RunFolder.open(folder.path)) == losses
    assert folder.metrics() == before


def test_more_steps_may_be_added_to_a_finished_run(task: Callable[..., Settings], tmp_path: Path) -> None:
    """With a constant rate, five steps and five more are ten."""
    constant = {"schedule": "constant", "warmup": 0.0, "checkpoint_every": 5, "validate_every": 5}
    one, two = begun(tmp_path / "one", task(**constant)), begun(tmp_path / "two", task(**constant, steps=5))
    run(one)
    run(two)
    run(reopen_sft(two.path, ["sft.steps=10"]))
    same(one, two)
    assert [str(change) for change in two.changed_settings()] == [
        "sft.steps: 5 up to step 5, 10 from step 6 on"
    ]
    with pytest.raises(UserError, match=r"--set sft\.batch_tokens: this cannot change within a run"):
        reopen_sft(two.path, ["sft.batch_tokens=9"])


def test_settings_that_no_step_would_be_made_under_are_refused(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    """They would stand in the config, and on the model's card, as what it was trained with."""
    folder = begun(tmp_path / "run", task(steps=None, epochs=0.2))
    losses = run(folder)
    before = folder.settings()
    for settings, steps, after in ((["sft.learning_rate=0.5"], None, losses.steps), ([], 1, 1)):
        with pytest.raises(UserError, match=rf"already, and would end after {after}: nothing would be"):
            reopen_sft(folder.path, settings, steps=steps)
    assert folder.model.is_dir()
    assert folder.settings() == before
    further = run(reopen_sft(folder.path, ["sft.learning_rate=0.01"], steps=losses.steps + 1))
    assert further.steps == losses.steps + 1


def test_all_weights_are_trained_as_well(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", task(adapter="none", learning_rate=1e-3, steps=3))
    losses = run(folder)
    assert losses.after is not None
    assert losses.before is not None
    assert losses.after < losses.before
    assert (folder.model / "model.safetensors").is_file()
    assert "all weights" in (folder.model / "README.md").read_text()
    told = Told()
    export_model(folder, tmp_path / "out", weights=choose_weights(folder), observer=told)
    assert [note for note in told.notes if note.startswith("answers: the same, ")]


def test_rows_that_do_not_fit_are_named(task: Callable[..., Settings], tmp_path: Path) -> None:
    told = Told()
    folder = begun(tmp_path / "run", task(data="file:long.jsonl", max_tokens=60, steps=1, validation=0))
    run(folder, observer=told)
    assert (
        "1 row (file:long.jsonl:2) cut at 60 tokens (sft.max_tokens): the end of the answer is lost"
        in told.notes
    )
    assert (
        "1 row (file:long.jsonl:1) set aside: no answer is left within 60 tokens (sft.max_tokens)"
        in told.notes
    )
    assert folder.metrics()[0]["validation_loss"] is None
    assert losses_of(folder).after is None


def test_a_run_that_would_train_on_nothing_is_refused(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", task(max_tokens=3))
    with pytest.raises(
        UserError, match=r"there is nothing to train on: 100 rows \(file:pairs.*Raise sft\.max_tokens"
    ):
        run(folder)


def test_other_rows_end_a_resume(task: Callable[..., Settings], whole: RunFolder, tmp_path: Path) -> None:
    settings = task()
    folder = begun(tmp_path / "run", settings)
    with pytest.raises(Interrupted):
        run(folder, pause=_at_step(folder, 2))
    data = settings.folder / "pairs.jsonl"
    text = data.read_text()
    try:
        data.write_text(text.replace("cat cat", "cat dog", 1))
        with pytest.raises(UserError, match="are others than when"):
            run(RunFolder.open(folder.path))
    finally:
        data.write_text(text)


def test_the_hours_of_the_budget_end_it(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", task(budget={"hours": 1e-9}))
    with pytest.raises(GuardStop, match="are used up"):
        run(folder)
    assert folder.checkpoints() == [1]
    assert "Stopped by the guard" in folder.report.read_text()


def test_other_commands_know_what_kind_of_run_it_is(whole: RunFolder) -> None:
    with pytest.raises(UserError, match="refine sft --resume"):
        reopen(whole.path, [])
    with pytest.raises(UserError, match="refine sft --resume"):
        run_train(RunFolder.open(whole.path))
    with pytest.raises(UserError, match="sampled nothing"):
        replay(whole, step=1)
    with pytest.raises(UserError, match="no reward by which"):
        evaluate_again(whole)


def test_a_look_that_is_no_number_is_not_kept(whole: RunFolder) -> None:
    """The weights are a step further than the record then: no checkpoint takes them for the step before."""
    from refine_rl.training.checkpoint import Position
    from refine_rl.training.sft.keep import Keeper

    class Record:
        kept: list[int] = []  # noqa: RUF012

        def steps(self) -> int:
            return 0

        def looks(self) -> dict[int, float]:
            return {}

        def checkpoint(self, position: Position, *, best: bool) -> None:
            self.kept.append(position.step)

    record: Any = Record()
    learn: Any = lambda step: None  # noqa: E731
    keep = Keeper(record=record, start=Position(), steps=3, validate=lambda: float("nan"), validate_every=1)
    with pytest.raises(GuardStop):
        train(learn, keep, pause=Pause(at=9))
    assert record.kept == []
