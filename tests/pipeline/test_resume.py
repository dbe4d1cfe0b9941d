"""Which settings of a run may change without a step back: those that no result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_rl.pipeline.resume import with_same_results
from refine_rl.settings.file import override, settings_from_dict

VLLM = {"kind": "vllm", "base_url": "http://127.0.0.1:8000/v1"}
TINKER = {"kind": "tinker", "base_url": "http://127.0.0.1:8000"}
DROPOUT = {"dropout": 0.1}


@pytest.mark.parametrize(
    ("engine", "model", "change", "same"),
    [
        (VLLM, {}, ['engine.base_url="http://127.0.0.1:9000/v1"', 'engine.adapter_folder="a"'], True),
        (VLLM, {}, ["engine.timeout=9.0", "engine.concurrency=3", 'engine.key_env="K"'], True),
        (TINKER, {}, ["engine.prices={prefill=1.0, sample=1.0, train=1.0}", "budget.dollars=2.0"], True),
        (TINKER, {}, ['engine.model="other"'], False),
        (TINKER, {}, ['engine.reduction="mean"'], False),
        (VLLM, {}, ["engine.timeout=9.0", "grpo.learning_rate=0.5"], False),
        ({"processes": 2}, {}, ["engine.processes=3"], True),
        ({"kind": "processes", "processes": 2}, {}, ["engine.processes=3", "engine.timeout=9.0"], True),
        ({"kind": "processes", "processes": 2}, {}, ["engine.shard=true"], False),
        ({"processes": 2}, DROPOUT, ["engine.processes=3"], False),
        ({}, {}, ["engine.processes=2"], False),
    ],
)
def test_no_result_depends_on_where_an_engine_is(
    engine: dict[str, Any], model: dict[str, Any], change: list[str], same: bool, tmp_path: Path
) -> None:
    before = settings_from_dict(
        {
            "task": "Be brief.",
            "model": {"name": "m", **model},
            "prompts": {"source": "file:p.jsonl"},
            "reward": {"rules": [{"rule": "chars", "max": 9}]},
            "engine": engine,
        },
        tmp_path,
    )
    assert with_same_results(before, override(before, change)) is same
