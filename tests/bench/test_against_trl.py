"""The benchmark against TRL: exact prompts, the table's figures, and (slow) the whole of it."""

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
import transformers

from refine_rl.bench.random_model import Shape, write_random_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "against_trl.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("against_trl", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokenizer(folder: Path | str, **options: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, **options)


def test_prompts_are_exact_for_the_random_model(script: ModuleType, tmp_path: Path) -> None:
    write_random_model(tmp_path, Shape(vocabulary=80, hidden=128, layers=1), context=8)
    words = tokenizer(tmp_path)
    prompts = script.exact_prompts(words, 31, 5, random.Random(0))
    assert [len(ids) for ids in words(text=prompts)["input_ids"]] == [31] * 5
    assert len(set(prompts)) == 5


def test_prompts_are_exact_for_a_real_tokenizer(script: ModuleType) -> None:
    tiny = tokenizer(Path(script.__file__).parents[1] / "src" / "refine_rl" / "assets" / "tiny")
    for length in (1, 2, 100):
        prompts = script.exact_prompts(tiny, length, 5, random.Random(0))
        assert [len(ids) for ids in tiny(text=prompts)["input_ids"]] == [length] * 5


def test_a_start_token_counts(script: ModuleType, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    write_random_model(tmp_path, Shape(vocabulary=80, hidden=128, layers=1), context=8)
    words = tokenizer(tmp_path)
    words.backend_tokenizer.post_processor = TemplateProcessing(single="7 $A", special_tokens=[("7", 7)])
    prompts = script.exact_prompts(words, 10, 3, random.Random(0))
    assert {len(ids) for ids in words(text=prompts)["input_ids"]} == {10}
    assert {ids[0] for ids in words(text=prompts)["input_ids"]} == {7}


def test_inexact_prompts_are_refused(script: ModuleType) -> None:
    class Melting:
        """Three words or more become one token."""

        def __len__(self) -> int:
            return 5

        def decode(self, ids: list[int]) -> str:
            return " ".join(map(str, ids))

        def __call__(self, text: list[str]) -> dict[str, list[list[int]]]:
            ids = [int(word) for word in text[0].split()]
            return {"input_ids": [ids if len(ids) < 3 else [0]]}

    assert len(script.exact_prompts(Melting(), 2, 1, random.Random(0))) == 1
    with pytest.raises(SystemExit, match="to have 3 tokens has 1 for TRL"):
        script.exact_prompts(Melting(), 3, 1, random.Random(0))
    Melting.decode = lambda self, ids: "".join(map(str, ids))  # type: ignore[method-assign]
    with pytest.raises(SystemExit, match="no tokens that are words"):
        script.exact_prompts(Melting(), 2, 1, random.Random(0))


def result(seconds: float, sample: float, peak: float, **more: Any) -> dict[str, Any]:
    parts = {"sample": sample, "train": seconds - sample}
    return {
        "seconds_per_step": seconds,
        "seconds": parts,
        "peak_rss_mb": peak,
        "peak_device_mb": None,
        "setting": {"micro_batch": 8, "checkpointing": False},
        **more,
    }


def test_the_table(script: ModuleType) -> None:
    sides = {
        "tried": [result(11.0, 2.0, 900.0), {**result(0, 0, 0), "failed": "x"}],
        "trl": [result(10.0, 4.0, 1000.0), result(30.0, 6.0, 1300.0), result(12.0, 2.0, 1100.0)],
        "refine": [result(s, 1.0, 400.0 + s, share_of_matmul_rate=0.1 * s) for s in (3.0, 5.0, 4.0)],
    }
    row = script.table({"float32": sides}).splitlines()[2]
    assert row == (
        "| float32 | micro-batch 8 | 12.00 / 4.00 | **3.0 x** | 4.00 / 1.00 (4.0 x) | 10.00 / 3.00 (3.3 x) "
        "| 1,300 / 405 | **3.2 x** | 40% |"
    )
    tried = script.tried_table({"float32": sides}).splitlines()[2:]
    assert tried == [
        "| float32 | micro-batch 8 | 11.00 | 900 |",
        "| float32 | micro-batch 8 | failed | - |",
    ]


def arguments(micro_batches: str = "2,4,5,16") -> argparse.Namespace:
    return argparse.Namespace(
        prompts=2, group_size=4, micro_batches=micro_batches, checkpointing=True, repeats=2, steps=3
    )


def test_the_best_setting_runs_in_turn(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[Any, ...]] = []

    def trl(model: str, dtype: str, setting: dict[str, Any], a: Any, steps: int) -> dict[str, Any]:
        ran.append(("trl", setting["micro_batch"], setting["checkpointing"], steps))
        if setting == {"micro_batch": 2, "checkpointing": False}:
            return {"setting": setting, "failed": "out of memory"}
        seconds = setting["micro_batch"] + 3 * setting["checkpointing"]
        return {"setting": setting, "seconds_per_step": seconds}

    monkeypatch.setattr(script, "run_trl", trl)
    monkeypatch.setattr(script, "run_refine", lambda *_: ran.append(("refine",)) or {"seconds_per_step": 1})
    sides = script.compare("m", "float32", arguments())
    tries = [("trl", n, c, 1) for n in (2, 4) for c in (False, True)]
    assert ran == [*tries, ("trl", 4, False, 3), ("refine",), ("trl", 4, False, 3), ("refine",)]
    assert [len(sides[side]) for side in ("tried", "trl", "refine")] == [4, 2, 2]
    with pytest.raises(SystemExit, match="none of 3,16 divides the 8 completions"):
        script.compare("m", "float32", arguments(micro_batches="3,16"))


def test_a_process_that_fails_says_why(script: ModuleType) -> None:
    a = argparse.Namespace(threads=1)
    failed = script.run([sys.executable, "-c", "raise SystemExit('no such thing')"], a)
    assert failed == {"failed": "exit code 1: no such thing"}
    code = "import os, json; print('noise'); x = bytearray(60_000_000); "
    code += "print(json.dumps({'threads': os.environ['OMP_NUM_THREADS']}))"
    done = script.run([sys.executable, "-c", code], a)
    assert done["threads"] == "1"
    assert done["peak_rss_mb"] > 60


@pytest.mark.slow
@pytest.mark.parametrize("model", ["random", "tiny"])
def test_the_whole_benchmark(model: str) -> None:
    pytest.importorskip("trl")
    command = [
        sys.executable,
        str(SCRIPT),
        "--prompt-tokens",
        "9",
        "--completion-tokens",
        "4",
        "--prompts",
        "2",
    ]
    command += [
        "--group-size",
        "2",
        "--micro-batches",
        "2,4",
        "--steps",
        "1",
        "--repeats",
        "1",
        "--threads",
        "1",
    ]
    if model == "random":
        command += ["--dtype", "float32", "--vocabulary", "90", "--hidden", "128", "--layers", "1"]
    else:
        tiny = SCRIPT.parents[1] / "src" / "refine_rl" / "assets" / "tiny"
        command += ["--dtype", "bfloat16", "--model", str(tiny), "--adapter", "lora"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stderr.splitlines()]
    assert [r["side"] for r in runs] == ["trl", "trl", "trl", "refine"]
    assert all(r["seconds_per_step"] > 0 for r in runs)
    assert all(r["dtype"] == ("float32" if model == "random" else "bfloat16") for r in runs)
    assert "peak memory, MB" in done.stdout
