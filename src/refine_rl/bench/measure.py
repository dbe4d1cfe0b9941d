"""`refine bench`: whole training steps on random prompts, timed.

A step is the training loop's own, collect and learn: sampling, scoring (a reward that is random, so every
group has spread), advantages, the check of sampler against trainer, the update. Prompts are random tokens,
new ones each step; completions are never stopped early. So the work is known to the token, and beside the
seconds stands how many operations it needs (flops.py) at what rate the machine multiplies matrices.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import torch

from refine_rl.bench.machine import matmul_rates, peak_rss_mb, processor
from refine_rl.bench.random_model import Shape, write_random_model
from refine_rl.bench.steps import random_prompts, take_steps
from refine_rl.errors import UserError
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.flops import Load, costs
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.settings import Settings
from refine_rl.settings.file import override, settings_from_dict
from refine_rl.training.grpo.setup import settled_for
from refine_rl.types import StepMetrics

PRODUCTS = 8  # large matrix products that are timed, half of them before the steps and half after


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What to measure. `model` is a hub id, a folder or "tiny"; without it, a random model of `shape`."""

    model: str | None = None
    shape: Shape = field(default_factory=Shape)
    prompt_tokens: int = 512
    completion_tokens: int = 64
    prompts: int = 8
    group_size: int = 8
    steps: int = 5
    warm_up: int = 2
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    adapter: Literal["lora", "qlora", "none"] = "lora"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured. Seconds are medians over the steps, the warm-up left out; None is what cannot be
    known (a model whose operations are not known, a processor without memory of its own)."""

    seconds_per_step: float
    seconds: Mapping[str, float]  # sample, score, train
    tokens_per_second: float  # sampled ones
    peak_rss_mb: float
    peak_device_mb: float | None  # of an accelerator's own memory
    share_of_matmul_rate: float | None  # of the whole step
    share: Mapping[str, float] | None  # of sampling and of training alone
    matmul_gflops: float  # 10**9 operations a second
    model_gflop_per_step: float | None
    model_gflop: Mapping[str, float] | None  # sample, train
    mismatch_mean: float | None  # |log-prob of the trainer - of the sampler|, nats a token
    mismatch_max: float | None
    model: str
    parameters: int
    trained: int
    adapter: str
    prompt_tokens: int
    completion_tokens: int
    prompts: int
    group_size: int
    steps: int
    warm_up: int
    tokens_at_once: int  # in training
    why_uncaptured: str | None  # why a step of sampling is not repeated from a record; "" where it is
    each_step: tuple[float, ...]  # seconds of each, in order
    device: str
    processor: str
    dtype: str
    threads: int
    torch: str


def measure(bench: Bench, tell: Callable[[str], None] = lambda line: None) -> Measured:
    """Takes the steps; `tell` gets a line for each. Raises UserError for what cannot be measured."""
    if bench.steps < 1 or bench.warm_up < 0:
        raise UserError("There is nothing to time: take at least one step.")
    with _model(bench) as name:
        settings = _settings(bench, name)
        policy = load_policy(settings.model, seed=settings.grpo.seed, keep_reference=settings.grpo.kl > 0)
        return _measured(bench, settings, policy, tell)


@contextmanager
def _model(bench: Bench) -> Iterator[str]:
    if bench.model is not None:
        yield bench.model
        return
    with tempfile.TemporaryDirectory(prefix="refine-bench-") as folder:
        write_random_model(Path(folder), bench.shape, context=bench.prompt_tokens + bench.completion_tokens)
        yield folder


def _settings(bench: Bench, model: str) -> Settings:
    own: dict[str, dict[str, object]] = {  # what has an option of its own
        "model": {"name": model, "adapter": bench.adapter, "dtype": bench.dtype},
        "grpo": {"steps": bench.warm_up + bench.steps, "prompts_per_step": bench.prompts},
        "rollout": {"group_size": bench.group_size, "max_tokens": bench.completion_tokens},
    }
    settings = settings_from_dict({"task": "To see how fast a step is.", **own}, Path())
    settings = override(settings, bench.overrides)
    for table, asked in own.items():
        for key, value in asked.items():
            if getattr(getattr(settings, table), key) != value:
                raise UserError(f"--set {table}.{key}: the bench has an option of its own for it.")
    return settings


def _measured(bench: Bench, settings: Settings, policy: Policy, tell: Callable[[str], None]) -> Measured:
    device, dtype = policy.device, policy.compute_dtype
    length = bench.prompt_tokens + bench.completion_tokens
    if bench.prompt_tokens > policy.prompt_room(bench.completion_tokens):
        raise UserError(
            f"{policy.source} sees {policy.context_length} tokens, and prompt and completion have {length}: "
            "lower --prompt-tokens or --completion-tokens."
        )
    policy.hold_still(length)
    settings = settled_for(settings, policy)
    rates = matmul_rates(device, dtype, times=PRODUCTS // 2)
    vocabulary = policy.vocabulary
    number = settings.grpo.steps * bench.prompts
    prompts = random_prompts(number, bench.prompt_tokens, vocabulary, settings.grpo.seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def line(m: StepMetrics) -> None:
        note = " (warm-up)" if m.step <= bench.warm_up else ""
        tell(f"step {m.step}/{settings.grpo.steps}  {m.seconds['total']:.2f} s{note}")

    taken = take_steps(policy, prompts, settings, line)[bench.warm_up :]
    peak = peak_rss_mb()
    on_device = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    rate = median(rates + matmul_rates(device, dtype, times=PRODUCTS - PRODUCTS // 2))
    total = median(m.seconds["total"] for m in taken)
    seconds = {name: median(m.seconds[name] for m in taken) for name in ("sample", "score", "train")}
    needed = _operations(bench, settings, policy)
    whole = None if needed is None else sum(needed.values())
    means = [m.mismatch_mean for m in taken if m.mismatch_mean is not None]
    largest = [m.mismatch_max for m in taken if m.mismatch_max is not None]
    return Measured(
        seconds_per_step=total,
        seconds=seconds,
        tokens_per_second=bench.prompts * bench.group_size * bench.completion_tokens / total,
        peak_rss_mb=peak,
        peak_device_mb=on_device,
        share_of_matmul_rate=None if whole is None else whole / (total * rate),
        share=None if needed is None else {n: x / (seconds[n] * rate) for n, x in needed.items()},
        matmul_gflops=rate / 1e9,
        model_gflop_per_step=None if whole is None else whole / 1e9,
        model_gflop=None if needed is None else {n: x / 1e9 for n, x in needed.items()},
        mismatch_mean=fmean(means) if means else None,
        mismatch_max=max(largest, default=None),
        model=bench.model or f"random ({bench.shape})",
        parameters=policy.share.whole,
        trained=policy.share.trained,
        adapter=settings.model.adapter,
        prompt_tokens=bench.prompt_tokens,
        completion_tokens=bench.completion_tokens,
        prompts=bench.prompts,
        group_size=bench.group_size,
        steps=bench.steps,
        warm_up=bench.warm_up,
        tokens_at_once=settings.grpo.at_once,
        why_uncaptured=_why_uncaptured(policy),
        each_step=tuple(m.seconds["total"] for m in taken),
        device=str(device),
        processor=processor(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _why_uncaptured(policy: Policy) -> str | None:
    """None where no step is ever recorded: on a processor, and of models that are no decoder alone."""
    if policy.device.type != "cuda" or not isinstance(policy, DecoderOnly):
        return None
    return policy.why_uncaptured or policy.why_plain


def _operations(bench: Bench, settings: Settings, policy: Policy) -> dict[str, int] | None:
    """What a step needs, by its parts; None where that is not known."""
    found = costs(policy)
    if found is None:
        return None
    load = Load(
        prompts=bench.prompts,
        members=bench.group_size,
        prompt_tokens=bench.prompt_tokens,
        completion_tokens=bench.completion_tokens,
    )
    updates = settings.grpo.updates_per_step
    return {"sample": found.sampling(load), "train": updates * found.training(load)}
