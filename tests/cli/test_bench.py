"""refine bench on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.bench import machine

Refine = Callable[..., Any]

FIGURES = {"seconds_per_step", "seconds", "tokens_per_second", "peak_rss_mb", "peak_device_mb", "each_step"}
FIGURES |= {"share_of_matmul_rate", "share", "matmul_gflops", "model_gflop_per_step", "model_gflop"}
FIGURES |= {"mismatch_mean", "mismatch_max", "why_uncaptured"}
SETUP = {"model", "parameters", "trained", "adapter", "prompt_tokens", "completion_tokens", "prompts"}
SETUP |= {
    "group_size",
    "steps",
    "warm_up",
    "tokens_at_once",
    "device",
    "processor",
    "dtype",
    "threads",
    "torch",
}
SMALL = ["--prompt-tokens", "6", "--completion-tokens", "4", "--prompts", "2", "--group-size", "2"]
SMALL += ["--steps", "1", "--warm-up", "1", "--dtype", "float32", "--set", "model.device=cpu"]
RANDOM = ["--vocabulary", "60", "--hidden", "128", "--layers", "1"]


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.SIDE, "cpu", 96)


def test_as_json(refine: Refine, tmp_path: Path) -> None:
    done = refine("bench", *RANDOM, *SMALL, "--adapter", "none", "--json")
    assert done.code == 0
    assert done.err.splitlines()[-2].endswith("(warm-up)")
    found = json.loads(done.out)
    assert found.keys() == FIGURES | SETUP
    assert set(found["seconds"]) == {"sample", "score", "train"}
    asked = {
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "prompts": 2,
        "group_size": 2,
        "steps": 1,
        "warm_up": 1,
        "tokens_at_once": 2048,
    }
    assert {name: found[name] for name in asked} == asked
    assert (found["dtype"], found["adapter"], found["device"]) == ("float32", "none", "cpu")
    weights = 60 * 128 + 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384 + 3 * 128 + 2 * 64
    assert found["parameters"] == found["trained"] == weights
    assert list(tmp_path.iterdir()) == []


def test_for_people(refine: Refine, make_model: Callable[..., Path]) -> None:
    done = refine("bench", "--model", make_model("llama"), *SMALL)
    assert done.code == 0
    lines = done.out.splitlines()
    assert "LoRA on " in lines[0]
    assert lines[2] == "2 prompts of 6 tokens, 2 completions of 4 tokens each; median of 1 step"
    assert [line.split("  ")[0] for line in lines[4:]] == [
        "seconds a step",
        "tokens a second",
        "peak memory",
        "of the machine",
    ]


def test_an_architecture_of_unknown_operations(refine: Refine, make_model: Callable[..., Path]) -> None:
    done = refine("bench", "--model", make_model("mixtral", num_local_experts=2), *SMALL, "--adapter", "none")
    assert done.code == 0
    assert "not known for this architecture" in done.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "tiny", "--hidden", "256"], "--model has its own shape: leave out --hidden"),
        (["--hidden", "100"], "--hidden 100: take a multiple of 128"),
        (["--dtype", "float16"], "float16"),
        (["--adapter", "dora"], "dora"),
        (["--group-size", "1"], "--group-size"),
        (["--steps", "0"], "--steps"),
        (["--completion-tokens", "0"], "--completion-tokens"),
        (["--model", "tiny", "--prompt-tokens", "1000"], "lower --prompt-tokens"),
        (["--model", "/no/model"], "there is no such folder"),
        (["--set", "grpo.steps=3"], "--set grpo.steps: the bench has an option of its own"),
        (["--set", "model.name=tiny"], "--set model.name: the bench has an option of its own"),
        (["--set", "model.dtype=float32"], "--set model.dtype: the bench has an option of its own"),
        (["--prompt-tokens", "1000000000"], "--prompt-tokens"),
        (["--set", "grpo.stepz=3"], "did you mean `grpo.steps`"),
    ],
)
def test_mistakes(refine: Refine, arguments: list[str], text: str) -> None:
    done = refine("bench", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert text in " ".join(done.err.split())
    assert "Traceback" not in done.err
