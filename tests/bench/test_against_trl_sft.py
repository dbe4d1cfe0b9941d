"""The benchmark of supervised fine-tuning against TRL: its rows, its table, and (slow) the whole of it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("against_trl_sft", FOLDER / "against_trl_sft.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(**changes: Any) -> argparse.Namespace:
    usual = {
        "rows": 4,
        "warm_up": 1,
        "steps": 2,
        "shortest": 20,
        "longest": 500,
        "adapter": "none",
        "dropout": 0.0,
        "device": "cpu",
        "micro_batches": "2,3,4,8",
        "padding_free": True,
        "trl_python": "python-of-trl",
        "tokens_at_once": 0,
        "repeats": 2,
    }
    return argparse.Namespace(**{**usual, **changes})


def test_rows_have_a_long_tail_within_their_ends(script: ModuleType) -> None:
    lengths = script.row_lengths(2000, 20, 500, random.Random(1))
    totals = sorted(prompt + answer for prompt, answer in lengths)
    assert totals[0] == 20
    assert totals[-1] == 500
    assert 90 < totals[1000] < 110  # the geometric mean of the ends is 100
    assert 120 < sum(totals) / 2000 < 150
    assert all(prompt >= 1 and answer >= 1 for prompt, answer in lengths)


def test_both_get_the_same_rows(script: ModuleType) -> None:
    rows = script.draw_rows(arguments(), 50)
    assert rows == script.draw_rows(arguments(), 50)
    assert len(rows) == 4 * 3
    assert {i for r in rows for i in r["prompt"] + r["answer"]} <= set(range(1, 50))


def result(seconds: float, peak: float, loss: float = 3.5, norm: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "seconds_per_step": seconds,
        "processor_per_step": seconds / 2,
        "first_loss": loss,
        "first_norm": norm,
        "peak_rss_mb": peak,
        "peak_device_mb": None,
        **more,
    }


def test_the_best_setting_runs_in_turn(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 50}')
    ran: list[tuple[Any, ...]] = []

    def run(command: list[str], a: argparse.Namespace) -> dict[str, Any]:
        side, job = command[2], json.loads(command[3])
        assert len(json.loads(Path(job["rows"]).read_text())) == 12
        ran.append((command[0], side, job.get("micro_batch"), job.get("by_length"), job["steps"]))
        if job.get("padding_free"):
            return {"failed": "no flash attention"}
        return result(job.get("micro_batch", 1) + 5 * job.get("by_length", 0), 100.0)

    sides = script.compare(str(tmp_path), "float32", arguments(), run)
    tries = [("python-of-trl", "trl", n, by_length, 1) for n in (2, 4) for by_length in (False, True, False)]
    best, ours = ("python-of-trl", "trl", 2, False, 2), (sys.executable, "refine", None, None, 2)
    assert ran == [*tries, best, ours, best, ours]
    assert [len(sides[side]) for side in ("tried", "trl", "refine")] == [6, 2, 2]
    with pytest.raises(SystemExit, match="none of 3,8 divides the 4 rows"):
        script.compare(str(tmp_path), "float32", arguments(micro_batches="3,8"), run)


def test_different_work_is_no_comparison(script: ModuleType) -> None:
    def sides(**ours: float) -> dict[str, Any]:
        return {"trl": [result(1, 1)], "refine": [result(1, 1, **ours)]}

    script.require_same(sides(loss=3.50005), "float32")
    script.require_same(sides(loss=3.51, norm=2.05), "bfloat16")
    for ours in ({"loss": 3.51}, {"norm": 2.05}):
        with pytest.raises(SystemExit, match=r"the first steps differ in float32: loss 3\.5"):
            script.require_same(sides(**ours), "float32")


def test_the_table(script: ModuleType) -> None:
    setting = {"micro_batch": 8, "by_length": True, "padding_free": False}
    sides = {
        "tried": [
            result(11.0, 900.0, setting=setting),
            {"setting": {**setting, "padding_free": True}, "failed": "x"},
        ],
        "trl": [result(s, p, setting=setting) for s, p in ((10.0, 1000.0), (30.0, 1300.0), (12.0, 1100.0))],
        "refine": [result(s, 400.0 + s, loss=3.25) for s in (3.0, 5.0, 4.0)],
    }
    row = script.table({"float32": sides}).splitlines()[2]
    assert row == (
        "| float32 | micro-batch 8, by length | 12.00 / 4.00 | **3.00 x** | 6.00 / 2.00 | **3.00 x** | "
        "1,300 / 405 | **3.21 x** | 3.5000 / 3.2500 |"
    )
    assert script.tried_table({"float32": sides}).splitlines()[2:] == [
        "| float32 | micro-batch 8, by length | 11.00 | 5.50 | 900 |",
        "| float32 | micro-batch 8, end to end | failed | - | - |",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_whole_benchmark(adapter: str) -> None:
    """Real rows through both trainers: the first losses and gradients are compared in it."""
    pytest.importorskip("trl")
    command = [sys.executable, str(FOLDER / "against_trl.py"), "--sft", "--adapter", adapter]
    command += [
        "--rows",
        "4",
        "--shortest",
        "5",
        "--longest",
        "40",
        "--micro-batches",
        "2,4",
        "--padding-free",
    ]
    command += ["--steps", "1", "--repeats", "1", "--threads", "1", "--dtype", "float32"]
    command += ["--vocabulary", "90", "--hidden", "128", "--layers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [r["side"] for r in runs] == ["trl"] * 7 + ["refine"]
    assert "| float32 | micro-batch" in done.stdout
