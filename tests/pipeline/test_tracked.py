"""A whole run, shown in a tracker: fine-tuning and GRPO, interrupted and resumed; and a run shown later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import Interrupted, SettingsError, UserError
from refine_rl.pipeline.resume import reopen, with_same_results
from refine_rl.pipeline.train import run
from refine_rl.progress import Quiet
from refine_rl.run import RunFolder
from refine_rl.run.trackers import build
from refine_rl.run.trackers.names import step_values
from refine_rl.settings import Settings
from refine_rl.settings.file import override, settings_from_dict
from refine_rl.types import Metrics, StepMetrics
from tracker import Kept

WORDS = ["cat", "dog", "tree", "house", "river"]


@pytest.fixture(scope="module")
def task(
    make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Settings]:
    folder = tmp_path_factory.mktemp("task")
    asked = [{"prompt": f"say {a} then {b}"} for a in WORDS for b in WORDS]
    pairs = [{"prompt": f"say {a} and {b}", "answer": f"{a} {a}"} for a in WORDS for b in WORDS]
    (folder / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in pairs))

    def make(**tables: Any) -> Settings:
        usual: dict[str, Any] = {
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:asked.jsonl", "validation": 3, "held_out": 6},
            "reward": {"rules": [{"rule": "chars", "max": 9}]},
            "rollout": {"max_tokens": 8, "group_size": 4},
            "grpo": {"steps": 4, "prompts_per_step": 3, "learning_rate": 0.02, "all_cut_patience": 99},
            "evaluate": {"samples": 2, "bootstrap": 100},
        }
        return settings_from_dict({"task": "Be short.", **usual, **tables}, folder)

    return make


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """Those that a run's processes make, in the place of TensorBoard."""
    made: list[Kept] = []

    def make() -> Kept:
        made.append(Kept())
        return made[-1]

    monkeypatch.setitem(build._MAKE, "tensorboard", make)
    monkeypatch.setattr(build, "find_spec", lambda name: name)
    return made


def test_a_run_and_its_fine_tuning_are_shown_through_a_stop(
    task: Callable[..., Settings], tmp_path: Path, trackers: list[Kept]
) -> None:
    sft = {"data": "file:pairs.jsonl", "steps": 2, "batch_tokens": 300, "validation": 3}
    folder = RunFolder.create(
        tmp_path / "mine", task(sft=sft, track={"to": ["tensorboard"], "project": "ours"})
    )

    class Stops(Quiet):
        """Interrupts once two steps of GRPO are on record."""

        def step(self, metrics: Metrics, steps: int) -> None:
            if isinstance(metrics, StepMetrics) and metrics.step == 2:
                raise Interrupted("stop")

    with pytest.raises(Interrupted):
        run(folder, observer=Stops())
    run(folder)
    by_name = [(kept.abouts[0].name, list(kept.steps.values())) for kept in trackers]
    assert by_name == [("mine/sft", [[0, 1, 2]]), ("mine", [[0, 1, 2]]), ("mine", [[3, 4]])]
    assert trackers[0].abouts[0].group == "mine"
    assert {kept.abouts[0].project for kept in trackers} == {"ours"}
    assert [end.state for kept in trackers for end in kept.ends] == ["finished", "interrupted", "finished"]
    shown = [row for kept in trackers[1:] for rows in kept.runs.values() for row in rows]
    for line in folder.metrics():
        wanted = step_values(line)
        assert {k: shown[line["step"]].values[k] for k in wanted} == wanted
    assert shown[1].rollouts
    assert trackers[2].ends[0].verdict == folder.comparison().verdict  # type: ignore[union-attr]
    assert trackers[2].ends[0].page == folder.report.absolute()


def test_a_finished_run_is_shown_later_and_nothing_is_trained_anew(
    task: Callable[..., Settings], tmp_path: Path, trackers: list[Kept]
) -> None:
    folder = RunFolder.create(tmp_path / "mine", task())
    run(folder)
    assert trackers == []
    before = folder.metrics()
    with pytest.raises(UserError, match="training is done"):
        reopen(folder.path, ['track.to=["tensorboard"]', "grpo.steps=9"])
    run(reopen(folder.path, ['track.to=["tensorboard"]']))
    assert trackers[0].steps == {"run-1": [0, 1, 2, 3, 4]}
    assert [end.state for end in trackers[0].ends] == ["finished"]
    assert folder.metrics() == before
    assert not [e for e in folder.events() if e["kind"] == "resumed"]


def test_no_result_depends_on_a_tracker(task: Callable[..., Settings]) -> None:
    before = task()
    assert with_same_results(before, override(before, ['track.to=["wandb"]', 'track.project="x"']))


def test_a_tracker_that_is_not_installed_is_refused_before_anything(
    task: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None if name != "mlflow" else name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = task(track={"to": ["wandb", "mlflow"]})
    folder = RunFolder.create(tmp_path / "mine", settings)
    with pytest.raises(SettingsError, match=r'"wandb" needs wandb: pip install "refine-rl\[wandb\]"'):
        run(folder)
    assert not folder.events()
    only = settings.track.model_copy(update={"to": ["mlflow"]})
    with pytest.raises(SettingsError, match='"mlflow" needs sqlalchemy'):
        build.require_trackers(only)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://example.invalid")
    build.require_trackers(only)
