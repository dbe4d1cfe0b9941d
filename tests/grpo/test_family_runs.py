"""Whole runs with what depends on the run's past: they resume to the bit, and are replayed to the token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from refine_rl import again
from refine_rl.config import Settings
from refine_rl.config_file import settings_from_dict
from refine_rl.errors import Interrupted
from refine_rl.grpo import kl
from refine_rl.pipeline import run
from refine_rl.runs import RunFolder
from refine_rl.stages import rollouts
from refine_rl.types import Prompt

MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone"]


class Pause:
    """Interrupts at the n-th call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted("stop")


def whole_and_stopped(make_model: MakeModel, folder: Path, sections: dict[str, Any]) -> RunFolder:
    """A run never stopped, held against one that was stopped in its fourth step or so and taken up again."""
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in WORDS for b in WORDS if a < b]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task: dict[str, dict[str, Any]] = {
        "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
        "prompts": {"source": "file:prompts.jsonl", "validation": 0, "held_out": 2},
        "reward": {"rules": [{"rule": "words", "max": 2, "strict": True}]},
        "rollout": {"group_size": 4, "max_tokens": 8},
        "grpo": {
            "steps": 6,
            "prompts_per_step": 3,
            "learning_rate": 0.02,
            "checkpoint_every": 3,
            "validate_every": 0,
            "all_cut_patience": 99,
            "zero_variance_patience": 99,
        },
        "evaluate": {"samples": 1, "bootstrap": 100},
    }
    for name, values in sections.items():
        task[name] = {**task[name], **values}
    settings = settings_from_dict({"task": "Be short.", **task}, folder)
    whole, stopped = (RunFolder.create(folder / name, settings) for name in ("whole", "stopped"))
    run(whole)
    with pytest.raises(Interrupted):
        run(stopped, pause=Pause(62))
    assert 0 < len(stopped.metrics()) < 6
    run(stopped)
    weights = [(r.checkpoint(6) / "weights.safetensors").read_bytes() for r in (whole, stopped)]
    assert weights[0] == weights[1]
    assert list(whole.groups()) == list(stopped.groups())
    clocks = ("seconds", "tokens_per_second")
    timeless = [
        [{k: v for k, v in m.items() if k not in clocks} for m in r.metrics()] for r in (whole, stopped)
    ]
    assert timeless[0] == timeless[1]
    return whole


def test_an_adaptive_kl_with_importance_weights(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "GAIN", 4.0)  # so that six steps show what the past does
    grpo = {"kl": 2.0, "kl_target": 0.001, "importance_cap": 2.0, "updates_per_step": 2, "loss": "gspo"}
    whole = whole_and_stopped(make_model, tmp_path, {"grpo": grpo, "rollout": {"ahead": 1}})
    metrics = whole.metrics()
    kls = [m["kl"] for m in metrics]
    assert [m["kl_coefficient"] for m in metrics] == [kl.adapted(2.0, 0.001, kls[:n]) for n in range(6)]
    assert len({m["kl_coefficient"] for m in metrics}) > 2
    # Sampled with the newest weights after a checkpoint and at the start, else with older ones.
    assert [m["importance_max"] == pytest.approx(1.0, abs=1e-4) for m in metrics] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    in_force = {}
    at_step = kl.at_step

    def listening(settings: Settings, history: Any, step: int) -> Settings:
        found = at_step(settings, history, step)
        in_force[step] = found.grpo.kl
        return found

    monkeypatch.setattr(kl, "at_step", listening)
    assert all(member.same for member in again.replay(whole, step=6))
    assert in_force == {4: metrics[3]["kl_coefficient"]}  # trained again, from the checkpoint of step 3


@pytest.mark.parametrize("pool", ["all", "informative"])
def test_resampled_groups(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    grpo = {"resample": 4, "loss": "cispo", "advantage": "rloo", "kl": 0.01}
    whole = whole_and_stopped(make_model, tmp_path, {"grpo": grpo, "prompts": {"pool": pool}})
    steps = whole.recorded_steps()
    sizes = Counter(len(groups) for groups in steps.values())
    assert max(sizes) > 3
    assert max(sizes) <= 7
    for groups in steps.values():
        assert len({g.prompt.id for g in groups}) == len(groups)
        for g in groups:
            values = {s.value for s in g.scores}
            assert (g.advantages == (None,) * 4) == (len(values) == 1)
    assert [m["groups"] for m in whole.metrics()] == [len(steps[s]) for s in range(1, 7)]
    largest = max(steps, key=lambda s: (len(steps[s]), s))
    together = []

    def listening(policy: Any, prompts: Sequence[Prompt], *others: Any) -> Any:
        together.append(len(prompts))
        return rollouts(policy, prompts, *others)

    monkeypatch.setattr(again, "rollouts", listening)
    assert all(member.same for member in again.replay(whole, step=largest))
    assert together[0] == 3
    assert len(together) > 1
    assert sum(together) == len(steps[largest])
