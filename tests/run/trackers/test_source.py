"""What trackers are given, to the number."""

from __future__ import annotations

from pathlib import Path

import pytest

import make
from refine_rl.run.trackers.names import NAMES, step_values
from refine_rl.run.trackers.source import Source
from refine_rl.settings import Settings
from refine_rl.types import SFTMetrics, StepMetrics
from tracker import finished, look, run_folder, trained


def test_every_number_of_a_step_has_a_name() -> None:
    metrics = make.metrics(
        3, components={"words": 0.5}, openings={"Sure": 0.75}, seconds={"train": 2.0, "total": 3.0}, kl=None
    )
    line = {name: getattr(metrics, name) for name in StepMetrics.__slots__}
    assert step_values(line) == {
        "step": 3.0,
        "reward/mean": 0.5,
        "reward/std": 0.2,
        "component/words": 0.5,
        "groups/all": 4.0,
        "groups/zero_variance": 0.0,
        "groups/missing": 0.0,
        "groups/members_missing": 0.0,
        "groups/by_steps": 0.0,
        "tokens/mean": 30.0,
        "tokens/clipped_share": 0.0,
        "tokens/per_second": 100.0,
        "train/loss": 0.0,
        "train/entropy": 1.0,
        "train/grad_norm": 1.0,
        "train/learning_rate": 1e-4,
        "seconds/train": 2.0,
        "seconds/total": 3.0,
    }
    assert NAMES.keys() <= {*StepMetrics.__slots__, *SFTMetrics.__slots__}
    assert len(set(NAMES.values())) == len(NAMES) - 1  # two are left out


def test_rows_have_answers_where_they_are_due_and_only_what_was_asked_for(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", rollouts=1)
    trained(run, 1, 2)
    trained(run, 3)
    look(run, 2, 0.75)
    run.event("warning", "slow", "It is slow.", 2)
    source = Source(run, run.settings())
    first, second = source.rows(0, 2)
    assert (first.step, second.step) == (1, 2)
    assert first.rollouts == [
        {
            "step": 1,
            "prompt_id": "p1",
            "prompt": "system: Be <brief>.\n\nuser: Say | hi.",
            "completion": text,
            "reward": reward,
            "advantage": advantage,
        }
        for text, reward, advantage in (("yes", 1.0, 0.25), ("no\n|", 0.5, -0.25))
    ]
    assert second.rollouts == ()
    assert (first.warnings, second.warnings) == ((), ["slow: It is slow."])
    assert second.values["validation/reward"] == 0.75
    assert second.values["validation/reward/high"] == 1.0
    assert [row.step for row in source.rows(2, 9)] == [3]
    trained(run, *range(4, 11))
    assert [row.step for row in source.rows(0, 99) if row.rollouts] == [1, 10]


def test_the_end_has_the_comparison_with_its_intervals(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    trained(run, 1)
    assert Source(run, run.settings()).end().state == "failed"  # whatever it was, nobody wrote it down
    run.event("guard", "all_cut", "Cut. Do this.")
    end = Source(run, run.settings()).end()
    assert (end.state, end.text, end.step, end.page, end.values) == ("stopped", "Cut. Do this.", 1, None, {})
    finished(run)
    end = Source(run, run.settings()).end()
    assert (end.state, end.verdict, end.page) == ("finished", "better", run.report.absolute())
    assert end.values == {
        "comparison/prompts": 64.0,
        "comparison/base": 0.25,
        "comparison/base/low": 0.2,
        "comparison/base/high": 0.3,
        "comparison/tuned": 0.75,
        "comparison/tuned/low": 0.7,
        "comparison/tuned/high": 0.8,
        "comparison/difference": 0.5,
        "comparison/difference/low": 0.45,
        "comparison/difference/high": 0.55,
    }
    assert [e["name"] for e in end.tables["events"]] == ["run", "all_cut", "finished"]


def test_without_rollouts_no_text_leaves(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", rollouts=0)
    trained(run, 1, openings={"hi there": 0.5})
    run.event("warning", "slow", "It said hi.", 1)
    run.event("failure", "endpoint", "It said hi.")
    run.save_report("hi")
    source = Source(run, run.settings())
    [row] = source.rows(0, 1)
    end = source.end()
    assert (row.rollouts, row.warnings) == ((), ())
    assert (end.state, end.text, end.tables, end.page) == ("failed", "", {}, None)
    assert "hi" not in repr((row, end))


def test_a_run_is_described_by_its_settings_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    run = run_folder(tmp_path / "mine", project="ours")
    about = Source(run, run.settings()).about()
    assert (about.project, about.name, about.group, about.kind) == ("ours", "mine", "", "grpo")
    assert about.flat["grpo.learning_rate"] == "None"
    assert about.flat["rollout.group_size"] == str(Settings(task="x").rollout.group_size)
    assert about.flat["versions.torch"]
    assert "sk-secret" not in repr(about)
    part = Source(run, run.settings(), part_of="whole").about()
    assert (part.name, part.group) == ("whole/mine", "whole")
