"""Where a card's time goes: sampling, a training micro-batch and a step of fine-tuning, each timed, then once
under torch's profiler.

    python benchmarks/gpu_profile.py --out DIR [--model 0.5B] [--small]

8 prompts x 8 members, 512 + 64 tokens, and 64 rows of 20 to 500; random weights of gpu.py's sizes, LoRA.
Training once with flash attention and once without it. Writes DIR/profile.json, and DIR/profile.md: of each
the kernels that took most, how many kernels there were, and for how much of the time the card worked.
It takes about a minute and a half, most of it the profiler's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu
import gpu_worker
from gpu_tables import beside

TOP = 25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="0.5B", choices=list(gpu.MODELS))
    parser.add_argument("--small", action="store_true", help="small sizes, on a processor")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    device, dtype = ("cpu", "float32") if a.small else ("cuda", "bfloat16")
    config = (gpu.SMALL if a.small else gpu.MODELS)[a.model]
    with tempfile.TemporaryDirectory(prefix="gpu-profile-") as folder:
        model = str(Path(folder) / "model")
        gpu_worker.write(folder=model, config=config, device=device, dtype=dtype)
        found: dict[str, Any] = {"model": a.model, "device": device}
        for name, work in works(model, config, device, dtype, small=a.small):
            try:
                found[name] = looked_at(work, device)
            except Exception as error:
                found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            (a.out / "profile.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (a.out / "profile.md").write_text(page(found), encoding="utf-8")
    print(page(found))


def works(
    model: str, config: dict[str, Any], device: str, dtype: str, *, small: bool
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is looked at, and its name."""
    from refine_rl.bench.steps import Numbers, random_prompts
    from refine_rl.envs.play import sample
    from refine_rl.policy.decoder_only import DecoderOnly
    from refine_rl.policy.draw import Sampling
    from refine_rl.policy.load import load_policy
    from refine_rl.policy.protocol import Purpose
    from refine_rl.policy.tokens import token_batch
    from refine_rl.settings import ModelSettings

    prompt_tokens, tokens, rows = (12, 4, 4) if small else (512, 64, 64)
    chosen = ModelSettings(name=model, dtype=dtype, device=device)  # type: ignore[arg-type]
    policy = load_policy(chosen, keep_reference=False)
    assert isinstance(policy, DecoderOnly)
    policy.read_numbers(Numbers(policy.tokenizer))
    prompts = random_prompts(2 if small else 8, prompt_tokens, config["vocab_size"], seed=0)
    groups: list[Any] = []

    def speak() -> dict[str, Any]:
        groups[:] = sample(
            policy,
            prompts,
            members=2 if small else 8,
            sampling=Sampling(max_tokens=tokens),
            purpose=Purpose(seed=0, step=1, name="rollout"),
        )
        return {
            "milliseconds_a_token": tokens,
            "why_plain": policy.why_plain,
            "why_uncaptured": policy.why_uncaptured,
        }

    yield f"sampling of {tokens} tokens", speak
    batch = token_batch([t for g in groups for t in g])

    def train() -> dict[str, Any]:
        found = policy.logprobs(batch)
        loss = found.sum() / batch.trainable.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": float(loss.detach()), "tokens": sum(batch.lengths)}

    yield "a training micro-batch", train
    with without_flash():
        yield "a training micro-batch without flash attention", train
    sft = beside("against_trl_sft")
    shape = argparse.Namespace(rows=rows, warm_up=1, steps=1, shortest=5 if small else 20, longest=500)
    if small:
        shape.longest = 30
    drawn = [row["prompt"] + row["answer"] for row in sft.draw_rows(shape, config["vocab_size"])][:rows]
    yield "a fine-tuning micro-batch", fine_tuning(policy, drawn)
    with without_flash():
        yield "a fine-tuning micro-batch without flash attention", fine_tuning(policy, drawn)


def fine_tuning(policy: Any, rows: list[list[int]]) -> Callable[[], dict[str, Any]]:
    """All of each row but its first token is learned."""
    import numpy as np

    from refine_rl.policy.tokens import token_batch
    from refine_rl.training.sft.rows import Tokens

    tokens = [
        Tokens(name=f"{n}", ids=np.array(ids, dtype=np.int32), spans=(1, len(ids) - 1))
        for n, ids in enumerate(rows)
    ]
    batch = token_batch([t.trajectory() for t in tokens])

    def work() -> dict[str, Any]:
        found = policy.logprobs(batch)
        loss = found.sum() / batch.trainable.sum()
        loss.backward()
        return {"loss": float(loss.detach()), "tokens": sum(batch.lengths)}

    return work


@contextlib.contextmanager
def without_flash() -> Iterator[None]:
    from refine_rl.policy import prefix, whole_rows

    before = prefix.able
    never: Any = lambda q, v: False  # noqa: E731
    prefix.able = whole_rows.able = never  # type: ignore[attr-defined]
    try:
        yield
    finally:
        prefix.able = whole_rows.able = before  # type: ignore[attr-defined]


def looked_at(work: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    """The second of three turns timed, the third under the profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from refine_rl.bench.machine import synchronize

    where = torch.device(device)
    work()
    synchronize(where)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    told = work()
    synchronize(where)
    seconds = time.perf_counter() - began
    if "milliseconds_a_token" in told:
        told["milliseconds_a_token"] = 1e3 * seconds / told["milliseconds_a_token"]
    peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        work()
        synchronize(where)
    return {"seconds": seconds, **told, "peak_device_mb": peak, **table(profiled, device)}


def table(profiled: Any, device: str) -> dict[str, Any]:
    """By kernel on a card, by operator on a processor: times called, milliseconds; and the sums."""
    events = profiled.key_averages()
    launches = sum(e.count for e in events if e.key in ("cudaLaunchKernel", "cudaLaunchKernelExC"))
    if device == "cuda":
        own = [
            (e.key, e.count, e.self_device_time_total / 1e3) for e in events if "CUDA" in str(e.device_type)
        ]
    else:
        own = [(e.key, e.count, e.self_cpu_time_total / 1e3) for e in events]
    own.sort(key=lambda row: -row[2])
    return {
        "launches": launches,
        "kernels": sum(row[1] for row in own),
        "busy_seconds": sum(row[2] for row in own) / 1e3,
        "top": own[:TOP],
    }


def page(found: dict[str, Any]) -> str:
    lines = [f"{found['model']} on {found['device']}", ""]
    for name, what in found.items():
        if not isinstance(what, dict):
            continue
        facts = {k: round(v, 4) if isinstance(v, float) else v for k, v in what.items() if k != "top"}
        lines += [f"## {name}", "", ", ".join(f"{k} {v!r}" for k, v in facts.items()), ""]
        if "top" in what:
            lines += ["| kernel | times | ms |", "| --- | --- | --- |"]
            for key, count, milliseconds in what["top"]:
                shown = key.replace("|", "/")[:150]
                lines.append(f"| `{shown}` | {count} | {milliseconds:.2f} |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
