"""One side of benchmarks/gpu.py: reads jobs, a line of JSON each, and answers each with a line of JSON.

A process for each side, as one side's switches (deterministic kernels) would hold the other up; all jobs of
a side in one process, as imports take longer than most jobs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_tables import beside

# -- jobs of Re:Fine ------------------------------------------------------------------------------------


def write(*, folder: str, config: dict[str, Any], device: str, dtype: str) -> dict[str, Any]:
    """A model of random weights."""
    import torch
    import transformers

    from refine_rl.bench.random_model import write_model

    made = transformers.LlamaConfig(  # of Qwen2, transformers would take its own tokenizer
        **config, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0, bos_token_id=None
    )
    write_model(Path(folder), made, dtype=getattr(torch, dtype), device=device)
    return {}


def grpo(
    *, model: str, device: str, dtype: str, adapter: str = "lora", overrides: list[str], **shape: int
) -> dict[str, Any]:
    """Steps of `refine bench`; and what `refine plan` goes by, the model's size and the machine's rates."""
    from refine_rl.bench.machine import SIDE
    from refine_rl.bench.measure import Bench, measure
    from refine_rl.plan import machine
    from refine_rl.policy.size import model_size
    from refine_rl.settings import ModelSettings

    if device == "cpu":  # where nothing is to be learned of the machine
        SIDE["cpu"] = 96
    bench = Bench(
        model=model,
        dtype=dtype,
        adapter=adapter,
        overrides=(f"model.device={device}", *overrides),
        **shape,
    )
    found = measure(bench, lambda line: print(line, file=sys.stderr, flush=True))
    settings = ModelSettings(name=model, dtype=dtype, device=device)
    size = model_size(settings)
    rows = found.prompts * found.group_size
    rates = machine.measure(settings, size, sampled=rows, trained=found.tokens_at_once)
    return {
        **dataclasses.asdict(found),
        "size": dataclasses.asdict(size),
        "rates": dataclasses.asdict(rates),
    }


def sft(*, tokens_at_once: int, **job: Any) -> dict[str, Any]:
    """Steps of `refine sft`."""
    found: dict[str, Any] = beside("against_trl_sft").refine_steps(tokens_at_once=tokens_at_once, **job)
    return {**found, "tokens_at_once": tokens_at_once}


def turns(**arguments: Any) -> dict[str, Any]:
    """Games of several turns, keys and values kept against every turn anew."""
    lines = beside("turns").lines(argparse.Namespace(**arguments))
    names = ("prompt_tokens", "tokens", "anew", "kept", "faster")
    return {
        "rows": [dict(zip(names, map(float, line.strip("| ").split(" | ")), strict=True)) for line in lines]
    }


def semantic(*, device: str, groups: int, members: int) -> dict[str, Any]:
    """The rule `semantic` on a device against a processor: seconds, and how far apart the scores are."""
    from refine_rl.randomness import generator
    from refine_rl.rewards.rules.semantic import semantic as rule
    from refine_rl.types import Prompt

    words = "the tide rises under the pull of moon and sun while harbours empty by night"
    vocabulary = words.split()

    def text(*key: str | int) -> str:
        drawn = generator(0, *key).integers(len(vocabulary), size=40)
        return " ".join(vocabulary[i] for i in drawn)

    prompts = [
        Prompt(
            id=f"p{n}",
            split="train",
            messages=({"role": "user", "content": "Say it."},),
            data={"answer": text("reference", n)},
        )
        for n in range(groups)
    ]
    found: dict[str, Any] = {}
    values: dict[str, list[float]] = {}
    for where in dict.fromkeys(("cpu", device)):
        check: Any = rule(device=where)
        check.check(prompts[0])
        check.score(prompts[0], [text("warm-up", m) for m in range(members)])
        began = time.perf_counter()
        scores = [check.score(p, [text(p.id, m) for m in range(members)]) for p in prompts]
        found[where] = time.perf_counter() - began
        values[where] = [s.value for group in scores for s in group]
    apart = max(abs(a - b) for a, b in zip(values["cpu"], values[device], strict=True))
    return {"seconds": found, "apart": apart, "texts": groups * members}


# -- jobs of TRL ----------------------------------------------------------------------------------------


def trl_grpo(**job: Any) -> dict[str, Any]:
    found: dict[str, Any] = beside("against_trl").trl_steps(**job)
    return found


def trl_sft(**job: Any) -> dict[str, Any]:
    found: dict[str, Any] = beside("against_trl_sft").trl_steps(**job)
    return found


# -- the process ----------------------------------------------------------------------------------------

JOBS: dict[str, dict[str, Callable[..., dict[str, Any]]]] = {
    "refine": {"write": write, "grpo": grpo, "sft": sft, "turns": turns, "semantic": semantic},
    "trl": {"grpo": trl_grpo, "sft": trl_sft},
}


def start(side: str) -> dict[str, Any]:
    """Imports what the side needs; what it is."""
    import torch

    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found |= {"card": torch.cuda.get_device_name(0), "memory": torch.cuda.mem_get_info()[1]}
    if side == "trl":
        import transformers
        import trl

        from_trl = trl.GRPOTrainer, trl.SFTTrainer  # which import what they need when they are asked for
        assert all(from_trl)
        return {**found, "trl": trl.__version__, "transformers": transformers.__version__}
    import refine_rl.bench.measure  # noqa: F401

    return found


def clean() -> None:
    """Between jobs: nothing of the one before is left on the card."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    if captured := sys.modules.get("refine_rl.policy.captured"):
        captured._LAST.clear()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def answer(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """What the job gives; `failed` with the reason where it cannot."""
    what = job.pop("what")
    began = time.perf_counter()
    try:
        clean()
        found = JOBS[side][what](**job)
    except (Exception, SystemExit) as error:
        found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        found["peak_reserved_mb"] = torch.cuda.max_memory_reserved() / 1e6
    clean()
    return {**found, "took": time.perf_counter() - began}


def main(side: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is none
    with contextlib.redirect_stdout(sys.stderr):
        try:
            print(json.dumps(start(side)), file=answers, flush=True)
        except Exception as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
            return
        for line in sys.stdin:
            print(json.dumps(answer(side, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
