"""The benchmark of a GPU: what is measured within its time, its tables, and (small, on a processor) the
measuring itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in ("gpu", "gpu_tables"):
            sys.modules.pop(name, None)


class Answers:
    """A side that answers by a script, and remembers what it was asked."""

    def __init__(self, name: str, *answers: dict[str, Any]) -> None:
        self.name, self.about = name, {"torch": "2"}
        self.left = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, what: str, limit: float, **job: Any) -> dict[str, Any]:
        self.asked.append((what, job))
        return {} if what == "write" else self.left.pop(0)

    def end(self) -> None: ...


def step(seconds: float, sample: float, peak: float, **more: Any) -> dict[str, Any]:
    return {
        "seconds_per_step": seconds,
        "seconds": {"sample": sample, "train": seconds - sample},
        "peak_device_mb": peak,
        **more,
    }


OURS = step(4.0, 3.0, 2000.0, tokens_at_once=8192, share_of_matmul_rate=0.123)


def bench(gpu: ModuleType, tmp_path: Path, refine: Answers, trl: Answers) -> Any:
    plan = gpu.Plan(device="cpu", dtype="float32", models=gpu.SMALL, small=False)
    return gpu.Bench(plan=plan, folder=tmp_path, refine=refine, trl=trl, until=float("inf"))


def test_trl_gets_its_best_setting_and_the_largest_batch_that_fits(gpu: ModuleType, tmp_path: Path) -> None:
    full = {"failed": "OutOfMemoryError: CUDA out of memory."}
    tried = [{"seconds_per_step": 3.0}, {"seconds_per_step": 2.0}]
    refine, trl = Answers("refine", OURS, OURS), Answers("trl", *tried, full, full, step(9.0, 8.0, 1.0), full)
    made = bench(gpu, tmp_path, refine, trl)
    found = made.grpo("0.5B", (512, 256), 8)
    assert [t["setting"] for t in found["tried"]] == [{}, {"continuous": True}]
    assert found["trl"]["micro_batch"] == 16
    sizes = [(job["micro_batch"], job.get("continuous", False)) for _, job in trl.asked]
    assert sizes == [(64, False), (64, True), (64, True), (32, True), (16, True)]
    assert [job["completion_tokens"] for _, job in trl.asked] == [32, 32, 256, 256, 256]
    assert refine.asked[0][0] == "write"
    trl.left = [{"failed": "OutOfMemoryError"}] * 7  # not even one row fits
    again = made.grpo("0.5B", (64, 256), 8)
    assert "tried" not in again
    assert again["trl"] == {"failed": "OutOfMemoryError", "micro_batch": 1}
    assert [what for what, _ in refine.asked] == ["write", "grpo", "grpo"]


def test_a_row_of_the_table(gpu: ModuleType) -> None:
    found = {
        "sides": {"refine": {"card": "NVIDIA X", "memory": 80e9, "torch": "2.11"}},
        "items": {
            "grpo: 0.5B, 64 + 256, G 8": {
                "refine": OURS,
                "trl": step(20.0, 18.0, 9000.0, micro_batch=32),
                "tried": [
                    {"setting": {}, "seconds_per_step": 2.0},
                    {"setting": {"continuous": True}, "failed": "no"},
                ],
            },
            "semantic: minilm": {"failed": "its encoder is not there"},
            "tests: pytest -m gpu": {"code": 0, "last": "=== 29 passed in 60.00s ==="},
        },
        "left_out": ["grpo: 1.5B, 64 + 256, G 8"],
    }
    page = gpu.gpu_tables.page(found)
    assert page.startswith("NVIDIA X, 80 GB, torch 2.11\n")
    assert (
        "| 0.5B, 64 + 256, G 8 | 20.00 / 4.00 | **5.0 x** | 18.00 / 3.00 | 2.00 / 1.00 | 9,000 / 2,000 "
        "| **4.5 x** | 32 rows / 8,192 tokens | 12.3% |\n"
    ) in page
    assert "| generate, with its cache | 2.00 |\n| continuous | no |" in page
    assert "The rule `semantic`: its encoder is not there." in page
    assert "`pytest -m gpu`: 29 passed in 60.00s." in page
    assert page.endswith("Not within the time: grpo: 1.5B, 64 + 256, G 8.")


def test_what_does_not_fit_the_time_is_named_and_what_is_known_not_repeated(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(gpu, "Side", Answers)

    def taking(self: Any, item: Any) -> dict[str, Any]:
        clock[0] += item.seconds
        return {"failed": "not within the time", "late": True} if item.name == "slow" else {"last": "x"}

    monkeypatch.setattr(gpu.Bench, "measure", taking)
    items = [
        gpu.Item(name=name, part="tests", seconds=seconds)
        for name, seconds in (("old", 5), ("one", 50), ("long", 60), ("slow", 20), ("two", 30))
    ]
    found: dict[str, Any] = {"items": {"tests: old": {"last": "old"}}}
    plan = gpu.Plan(device="cpu", dtype="float32", models=gpu.SMALL, small=True)
    gpu.measure(plan, items, found, out=tmp_path, until=100.0, against=True)
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert list(kept["items"]) == ["tests: old", "tests: one", "tests: two"]
    assert kept["items"]["tests: old"] == {"last": "old"}
    assert kept["left_out"] == ["tests: long", "tests: slow"]
    assert clock[0] == 100.0
    assert "Not within the time: tests: long; tests: slow." in (tmp_path / "gpu.md").read_text()


def test_unknown_parts_are_refused(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", "x", "--parts", "grpo,tets"])
    assert "--parts tets: there are grpo, tests, sft," in capsys.readouterr().err


def measured(tmp_path: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--small", "--out", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out"] == []
    return found


def test_measuring_at_small_sizes(tmp_path: Path) -> None:
    """Re:Fine's side; each pass with fewer tokens at once has more passes."""
    found = measured(tmp_path, "--without-trl", "--parts", "sweep,turns")
    (sweep,) = (r["rows"] for key, r in found["items"].items() if key.startswith("sweep"))
    assert [r["tokens_at_once"] for r in sweep] == [32, 256, 2048]
    assert all(r["seconds"]["train"] > 0 and r["rates"]["train"] > 0 for r in sweep)
    assert sweep[0]["size"]["layers"] == 1
    assert (tmp_path / "gpu.md").read_text().count("| auto: 2,048 |") == 1
    (turns,) = (r["rows"] for key, r in found["items"].items() if key.startswith("turns"))
    assert turns[0]["prompt_tokens"] == 8


@pytest.mark.slow
def test_the_whole_benchmark_at_small_sizes(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    found = measured(tmp_path, "--minutes", "15")
    rows = [r for key, r in found["items"].items() if key.startswith("grpo")]
    assert len(rows) == 12
    assert all(r[side]["seconds_per_step"] > 0 for r in rows for side in ("refine", "trl"))
    for key, r in found["items"].items():
        assert "failed" not in r, key
