"""Whole runs on reasoning-gym's datasets; what was scored is scored the same from the run's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from make import scored
from refine_rl.pipeline.train import run
from refine_rl.rewards.build import build_reward
from refine_rl.run import RunFolder
from refine_rl.settings.file import settings_from_dict

# The library leaves files open, and numpy has something to say of what its scorers hand it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TEN: dict[str, dict[str, Any]] = {
    "chain_sum": {"max_terms": 2, "max_digits": 1},
    "gcd": {},
    "leg_counting": {},
    "spell_backward": {"max_word_len": 4},
    "prime_factorization": {"max_value": 50},
    "boxnet": {},
    "arc_1d": {"max_size": 12},
    "knights_knaves": {"n_people": 2},
    "propositional_logic": {},
    "composite": {"datasets": [{"name": "lcm"}, {"name": "word_sorting", "weight": 2.0}]},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "composite" else [pytest.mark.slow]) for name in TEN]
)
def test_a_run_from_a_dataset(name: str, make_model: Callable[..., Path], tmp_path: Path) -> None:
    settings = settings_from_dict(
        {
            "task": "Solve.",
            "model": {
                "name": str(make_model("llama", max_position_embeddings=4096)),
                "device": "cpu",
                "rank": 2,
            },
            "prompts": {
                "source": f"reasoning-gym:{name}",
                "parameters": TEN[name],
                "train": 4,
                "validation": 1,
                "held_out": 5,
                "max_tokens": 4000,
            },
            "reward": {"reasoning_gym": {"answer": "whole"}},
            "rollout": {"group_size": 3, "max_tokens": 6},
            "grpo": {"steps": 2, "prompts_per_step": 2, "all_cut_patience": 99},
            "evaluate": {"samples": 1, "bootstrap": 100},
        },
        tmp_path,
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    assert run(folder).prompts == 5
    prompts = {p.id: p for p in folder.prompts()}
    reward = build_reward(folder.settings())
    groups = list(folder.groups())
    assert len(groups) == 4
    for group in groups:
        said = [t["messages"][-1]["content"] for t in group["trajectories"]]
        again = scored(reward, prompts[group["prompt_id"]], *said)
        assert [s.value for s in again] == [t["reward"] for t in group["trajectories"]]
        assert [s.status for s in again] == [t["status"] for t in group["trajectories"]]
        assert {"scored", "invalid"} >= {s.status for s in again}
    assert folder.config.versions()["reasoning-gym"]
