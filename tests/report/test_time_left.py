"""How long a run will still take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import make
from refine_rl.report.time_left import Part, left_of, parts_of, time_left
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import Outcome, Score, SFTMetrics


def run_of(folder: Path, **grpo: Any) -> RunFolder:
    """A run of 10 steps with 2 validation and 6 held-out prompts, each answered 4 times and once greedily."""
    settings = Settings.model_validate(
        {
            "task": "Be brief.",
            "model": {"name": "tiny"},
            "reward": {"rules": [{"rule": "words", "max": 3}]},
            "grpo": {"steps": 10, "validate_every": 4, "checkpoint_every": 5} | grpo,
        }
    )
    run = RunFolder.create(folder, settings)
    splits = ["train"] * 4 + ["validation"] * 2 + ["held_out"] * 6
    run.save_prompts([make.prompt(n, f"Say {n}.", split=s) for n, s in enumerate(splits)])  # type: ignore[arg-type]
    return run


def took(run: RunFolder, stage: str, seconds: float, step: int | None = None) -> None:
    run.times.append({"stage": stage, "step": step, "seconds": seconds})


def validated(run: RunFolder, step: int, seconds: float) -> None:
    took(run, "validation", seconds, step)
    run.validation.append({"step": step, "reward": {"mean": 0.5, "ci95": [0.4, 0.6]}, "success": 0.5})


def trained(run: RunFolder, *seconds: float) -> None:
    for each in seconds:
        run.metrics.append(make.metrics(len(run.metrics()) + 1, seconds={"total": each}))


def test_nothing_is_known_before_the_first_step(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert left_of(run) is None
    took(run, "base", 30.0)
    validated(run, 0, 8.0)
    assert left_of(run) is None


def test_steps_validations_and_the_tuned_answers_count(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    took(run, "base", 30.0)
    validated(run, 0, 8.0)
    trained(run, 5.0)
    # 9 steps as the only one; validations after 4, 8 and 10 as the only one; the answers as those of base
    assert left_of(run) == 9 * 5.0 + 3 * 8.0 + 30.0


def test_a_slow_first_step_and_a_slow_one_between_do_not_count(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    took(run, "base", 30.0)
    validated(run, 0, 8.0)
    trained(run, 60.0, 2.0, 40.0, 2.0)
    # the validation of step 4 is under way
    assert left_of(run) == 6 * 2.0 + 3 * 8.0 + 30.0
    validated(run, 4, 4.0)
    # 6 prompts x 5 answers, at the pace of the validation: 2 prompts x 4 answers in 4 seconds
    assert left_of(run) == 6 * 2.0 + 2 * 4.0 + 15.0
    trained(run, 2.0)
    took(run, "checkpoint", 0.5, 5)
    # the checkpoint of step 10
    assert left_of(run) == 5 * 2.0 + 2 * 4.0 + 0.5 + 15.0


def test_only_the_newest_steps_count() -> None:
    assert Part(to_come=1, took=(*[9.0] * 30, *[1.0] * 25)).each == 1.0
    assert Part(to_come=1, took=(*[9.0] * 30, *[1.0] * 12)).each == 9.0


def test_what_is_under_way_is_not_counted_twice() -> None:
    parts = [Part(to_come=0, took=(7.0,)), Part(to_come=3, took=(4.0,)), Part(to_come=1, took=(10.0,))]
    assert time_left(parts) == 22.0
    assert time_left(parts, since=3.0) == 19.0
    assert time_left(parts, since=30.0) == 18.0  # the step under way takes longer than its like


def test_a_resumed_run_goes_by_what_is_on_record(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=20)
    took(run, "base", 12.0)  # interrupted
    took(run, "base", 30.0)
    validated(run, 0, 8.0)
    trained(run, 60.0, 2.0, 2.0)
    before = left_of(run)
    assert before == 17 * 2.0 + 5 * 8.0 + 30.0
    took(run, "prepare", 6.0)
    took(run, "base", 0.01)  # found done
    assert left_of(RunFolder.open(run.path)) == before
    trained(run, 50.0)  # the first of the new process
    assert left_of(run) == 16 * 2.0 + 5 * 8.0 + 30.0


def test_after_the_last_step_the_tuned_answers_are_left_and_then_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=2)
    took(run, "base", 30.0)
    validated(run, 0, 8.0)
    trained(run, 3.0, 3.0)
    assert left_of(run) == 8.0 + 30.0
    validated(run, 2, 2.0)
    assert left_of(run) == 7.5
    held_out = [p for p in run.prompts() if p.split == "held_out"]
    pair = (make.trajectory(held_out[0], "Hi.", tokens=1), Score(value=1.0))
    run.save_outcomes("tuned", [Outcome(prompt=p, sampled=(pair,), greedy=pair) for p in held_out])
    assert left_of(run) == 0.0


def test_a_run_without_validation_has_none_to_come(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    took(run, "base", 30.0)
    took(run, "validation", 5.0, 0)  # the pool's probe alone, and once more after a stop
    took(run, "validation", 5.0, 0)
    trained(run, 3.0)
    assert left_of(run) == 9 * 3.0 + 30.0


def test_training_that_ended_early_has_no_step_left_until_one_goes_back(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    took(run, "base", 30.0)
    trained(run, 1.0, 1.0, 1.0)
    run.event("note", "done_early", "Every answer earns the full reward: training ended after 3 steps.", 3)
    assert left_of(run) == 30.0
    run.metrics.rewind(2)
    assert left_of(run) == 8 * 1.0 + 30.0


def sft_of(folder: Path, **sft: Any) -> RunFolder:
    settings = Settings.model_validate(
        {
            "task": "Be brief.",
            "model": {"name": "tiny"},
            "sft": {"data": "file:pairs.jsonl"} | sft,
        }
    )
    return RunFolder.create(folder, settings, kind="sft")


def fine_tuned(run: RunFolder, train: float, look: float | None = None) -> None:
    step = len(run.metrics()) + 1
    total = train if look is None else train + look
    loss = None if look is None else 2.0
    if look is not None:
        run.validation.append({"step": step, "loss": 2.0, "perplexity": 7.4})
    run.metrics.append(
        SFTMetrics(
            step=step,
            loss=3.0,
            validation_loss=loss,
            tokens=100,
            targets=50,
            rows=2,
            epoch=step / 10,
            learning_rate=1e-3,
            grad_norm=1.0,
            seconds={"train": train, "total": total},
        )
    )


def test_supervised_fine_tuning(tmp_path: Path) -> None:
    run = sft_of(tmp_path / "run")
    assert left_of(run) is None  # rows are not known
    run.config.note(sft_steps=20)
    took(run, "validation", 8.0, 0)
    run.validation.append({"step": 0, "loss": 4.0, "perplexity": 50.0})
    assert left_of(run) is None
    fine_tuned(run, 9.0)
    # a look at the validation rows at every tenth of the steps
    assert left_of(run) == 19 * 9.0 + 10 * 8.0
    fine_tuned(run, 1.0, look=4.0)
    took(run, "checkpoint", 0.5, 2)
    # a step's seconds without its look
    assert left_of(run) == 18 * 1.0 + 9 * 4.0 + 9 * 0.5
    run.event("note", "done_early", "The validation loss was lowest at step 2.", 2)
    assert left_of(run) == 0.0
    while len(run.metrics()) < 20:
        fine_tuned(run, 1.0)
    assert [p.to_come for p in parts_of(run)] == [0, 1, 0]  # the look at the last step was not made


def test_supervised_fine_tuning_that_begins_a_run_leaves_its_steps_unknown(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    fine = sft_of(run.path / "sft", validate_every=0)
    fine.config.note(sft_steps=3)
    fine_tuned(fine, 2.0)
    assert left_of(run.sft) == 2 * 2.0
    assert left_of(run) is None


@pytest.mark.parametrize("since", [0.0, 1.0])
def test_nothing_to_come_takes_no_time(since: float) -> None:
    assert time_left([Part(to_come=0), Part(to_come=0, took=(3.0,))], since) == 0.0
