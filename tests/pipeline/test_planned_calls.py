"""The calls on a run's ledger are those that were planned."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from make import write_pairs
from refine_rl.pipeline.seeds import train_seeds
from refine_rl.pipeline.train import run
from refine_rl.plan import Counts, calls, count_prompts
from refine_rl.plan.rollback import repeated
from refine_rl.plan.seeds import calls_of_all
from refine_rl.plan.teacher import answers_taught
from refine_rl.rewards.rules.form import window_value
from refine_rl.run import RunFolder
from refine_rl.run.seeds import SeedsFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.grpo.teacher import LocalTeacher
from refine_rl.types import Trajectory

WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
Planned = dict[tuple[str, str], tuple[int, int]]


@pytest.fixture
def task(
    make_model: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> Callable[..., Settings]:
    """task(**sections) -> settings whose endpoint "e" is a server that judges: longer is better."""
    write_pairs(tmp_path, WORDS)
    server = llm_server(brain=judged, models=["j", "k"])

    def make(**sections: dict[str, Any]) -> Settings:
        usual: dict[str, dict[str, Any]] = {
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:prompts.jsonl", "validation": 10, "held_out": 5},
            "endpoints": {"e": {"base_url": server.base_url, "prices": {"j": {"input": 1, "output": 1}}}},
            "rollout": {"group_size": 4, "max_tokens": 8},
            "grpo": {"learning_rate": 0.03, "prompts_per_step": 4, "all_cut_patience": 99},
            "evaluate": {"samples": 2, "bootstrap": 200},
        }
        for name, values in sections.items():
            usual[name] = {**usual.get(name, {}), **values}
        return settings_from_dict({"task": "Be short.", **usual}, tmp_path)

    return make


def judged(body: dict[str, Any]) -> str:
    text = body["messages"][-1]["content"]
    names = re.findall(r'<trajectory id="([^"]+)">', text)
    if names:
        scores = [{"trajectory_id": n, "explanation": "", "score": i / 20} for i, n in enumerate(names)]
        return json.dumps({"scores": scores})
    answer = json.loads(text.rpartition("<answer>")[2].partition("</answer>")[0])[-1]["content"]
    return json.dumps(
        {"explanation": "", "score": 1 + 9 * window_value(len(answer.strip()), 14, None, strict=False)}
    )


def ledger(*runs: RunFolder) -> dict[tuple[str, str], int]:
    """(purpose, model) -> calls, those that the cache answered among them."""
    return dict(Counter((c["purpose"], f"{c['endpoint']}/{c['model']}") for run in runs for c in run.calls()))


def planned(settings: Settings, counts: Counts, seeds: int = 1) -> Planned:
    found: Planned = {}
    for c in calls_of_all(settings, counts, seeds):
        low, high = found.get((c.purpose, c.model), (0, 0))
        found[c.purpose, c.model] = (low + c.low, high + c.high)
    return found


def test_steps_after_a_drift_are_in_the_high_figure(task: Callable[..., Settings], tmp_path: Path) -> None:
    """A rule pays for shortness, a judge likes length: training goes back, and looks again."""
    settings = task(
        reward={"rules": [{"rule": "chars", "max": 6}]},
        grpo={"steps": 8, "validate_every": 2},
        evaluate={"judge": "e/j", "on_drift": "rollback"},
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder)
    (gone,) = [e for e in folder.events() if e["name"] == "gone_back"]
    looks = [t["step"] for t in folder.times() if t["stage"] == "validation"]
    counts = count_prompts(folder.prompts())
    back = repeated(settings, counts)
    assert 0 < max(Counter(looks).values()) - 1 <= back.looks
    assert sum(n - 1 for n in Counter(looks).values()) <= back.looks == 2
    assert gone["step"] >= 2
    assert back.steps == 4
    made, whole = ledger(folder), planned(settings, counts)
    assert made.keys() == whole.keys() == {("judge", "e/j"), ("anchor", "e/j")}
    assert made["anchor", "e/j"] == whole["anchor", "e/j"][0] == 2  # before anything else
    each = 10 * 2  # answers of a validation, of which two may be alike
    assert whole["judge", "e/j"] == (5 * each, 7 * each)
    assert 0.8 * len(looks) * each <= made["judge", "e/j"] <= len(looks) * each
    (steps,) = {c.high for c in calls(settings, counts) if c.stage == "validation, another eye"}
    assert made["judge", "e/j"] <= steps


def test_later_seeds_do_without_what_the_first_has_done(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = task(
        reward={"judges": ["e/j"]},
        judge={"kind": "ruler", "anchor_prompts": 2, "anchors": True},
        grpo={"steps": 2, "validate_every": 1},
        evaluate={"judge": "e/k", "rivals": ["best_of_n"], "best_of": 3},
    )
    home = SeedsFolder.begin(tmp_path / "all", "all", settings, 2)
    train_seeds(home, run, lambda found: None)
    runs = [home.run(n) for n in range(2)]
    counts = count_prompts(runs[0].prompts())
    assert ledger(runs[0]) == {key: high for key, (_, high) in planned(settings, counts).items()}
    assert ledger(*runs) == {key: high for key, (_, high) in planned(settings, counts, 2).items()}


@pytest.mark.parametrize("rewarded", [True, False])
def test_a_teacher_reads_what_was_planned_and_nothing_else(
    rewarded: bool,
    task: Callable[..., Settings],
    make_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where rewards count, the answers of the comparison are none of its business; nor is what another eye
    scores, which it has read."""
    read: list[Trajectory] = []

    class Counted(LocalTeacher):
        def begin(self, trajectories: Sequence[Trajectory]) -> None:
            read.extend(t for t in trajectories if id(t) not in self._known)
            super().begin(trajectories)

    monkeypatch.setattr("refine_rl.pipeline.teacher.LocalTeacher", Counted)
    teacher = {"model": str(make_model("llama")), "share": 0.5 if rewarded else 1.0}
    rules = {"rules": [{"rule": "chars", "max": 6}]}
    sections: dict[str, Any] = {
        "reward": rules,
        "evaluate": {"judge": "e/j", "on_drift": "warn", "rivals": ["best_of_n"], "best_of": 2},
    }
    settings = task(teacher=teacher, grpo={"steps": 1, "validate_every": 1}, **(sections if rewarded else {}))
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder)
    low, high = answers_taught(settings, count_prompts(folder.prompts()))
    assert low == high == len(read)
