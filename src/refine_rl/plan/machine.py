"""The model's size and this machine's speed -> seconds, memory and disk of a run.

Time of a forward pass over n tokens: 2 * (weights in matrices) * n / (matrix rate * EFFICIENCY), and a
fixed time a layer for everything that is started one by one. Training adds the way back, and the traffic
of the activations to and from memory. All rates are measured here and now, in the shapes of the run.

Peak memory: weights + adapter with gradient and optimizer + the larger of sampling (keys and values of all
rows; one row of logits each) and training (activations and logits of grpo.tokens_per_micro_batch).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refine_rl.config import Settings
from refine_rl.errors import UserError
from refine_rl.plan.calls import validations
from refine_rl.plan.counts import Counts

if TYPE_CHECKING:
    import torch

EFFICIENCY = 0.35  # of the measured matrix rate, inside a whole model
LAUNCH = {"cpu": 2.5e-3, "cuda": 1.2e-3}  # seconds a layer and forward pass, its adapter included
TRAFFIC = 20  # times that a training pass reads or writes its activations, fresh memory included
VOCABULARY_BYTES = 60  # a vocabulary entry and sampled token: softmax, its sum, the draw
PASSES_BACK = {"lora": 2, "none": 3}  # matrix work of a training pass, forward included, in forward passes
START = 5.0  # seconds: imports, prompts, the report
PROGRAM = {"cpu": 0.5e9, "cuda": 0.7e9}  # bytes: Python and libraries; the device's context
OPTIMIZER = 16  # bytes a trained weight: itself, its gradient, two moments of AdamW, all float32
SLACK = 2.0  # activations and buffers in the high figure: what an allocator does not give back
MAX_ROWS = 512  # sampled at once
_MEASURED = 0.1  # seconds a rate
_SPREAD = 1 << 27  # bytes of matrices, so that they are read from memory as a model's are


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What of a model's architecture decides time and memory. `linear` are the weights of all linear layers
    but the head, `adapted` the sum of their inputs and outputs where an adapter is put on them."""

    parameters: int
    linear: int
    adapted: int
    layers: int
    hidden: int
    intermediate: int
    kv: int  # width of the keys of one token in one layer
    vocabulary: int

    def trainable(self, settings: Settings) -> int:
        """Weights that training changes."""
        m = settings.model
        return self.adapted * m.rank if m.adapter == "lora" else self.parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What the machine reaches: multiplications and additions a second with many rows (training) and with
    as many as are sampled at once, and bytes a second."""

    device: str  # "cpu" or "cuda"
    dtype: str
    train: float
    decode: float
    bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Estimates, low and high. Low: completions of half of rollout.max_tokens; high: all reach it."""

    step: tuple[float, float]  # seconds of sampling and training in a step
    evaluation: tuple[float, float]  # seconds of all validations and the comparison
    memory: tuple[float, float]  # bytes
    disk: float  # bytes


class UnknownSize(UserError):  # noqa: N818 - it is a gap in what is known, not a mistake
    """The model's configuration is not on this machine."""


def model_size(settings: Settings) -> Size:
    """From the model's configuration alone; no weight is read and nothing is downloaded. Raises
    UnknownSize where the configuration is not on this machine."""
    import transformers

    from refine_rl.policy.load import model_source

    name = settings.model.name
    source = model_source(name)
    try:
        config = transformers.AutoConfig.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
        return size_of(config, settings.model.targets)
    except (OSError, ValueError, KeyError) as error:
        raise UnknownSize(
            f"{name} is not on this machine yet, so its size is unknown (refine train loads it)"
        ) from error


def size_of(config: Any, targets: str | list[str]) -> Size:
    """Of any decoder-only architecture: the model is built without memory for its weights."""
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = adapted = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            linear += module.weight.numel()
            if targets == "all-linear" or name.rsplit(".", 1)[-1] in targets:
                adapted += sum(module.weight.shape)
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=linear,
        adapted=adapted,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        kv=(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=text.vocab_size,
    )


def measure(settings: Settings, size: Size) -> Rates:
    """This machine's rates, in about a third of a second."""
    import torch

    from refine_rl.policy.load import choose_device, choose_dtype

    device = choose_device(settings.model.device)
    dtype = choose_dtype(settings.model.dtype, device)
    rows = min(MAX_ROWS, settings.grpo.prompts_per_step * settings.rollout.group_size)
    shape = size.hidden, size.intermediate
    number = max(1, min(64, _SPREAD // (shape[0] * shape[1] * dtype.itemsize)))
    matrices = [torch.randn(shape, device=device, dtype=dtype) for _ in range(number)]

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def matrix_rate(n: int) -> float:
        x = torch.randn(n, shape[0], device=device, dtype=dtype)
        return 2 * n * shape[0] * shape[1] * _a_second(lambda i: x @ matrices[i % number], wait)

    block = torch.empty(_SPREAD // 4, device=device, dtype=torch.float32)
    copy = torch.empty_like(block)
    copied = _a_second(lambda _: copy.copy_(block), wait)
    return Rates(
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        train=matrix_rate(settings.grpo.tokens_per_micro_batch),
        decode=matrix_rate(rows),
        bytes=copied * 2 * block.numel() * block.itemsize,
    )


def _a_second(work: Callable[[int], torch.Tensor], wait: Callable[[], None]) -> float:
    """How often `work` can be done in a second."""
    for i in range(3):
        work(i)
    wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < _MEASURED:
        for i in range(done, done + 4):
            work(i)
        wait()
        done += 4
    return done / (time.perf_counter() - began)


def installed_memory(device: str) -> float:
    """Bytes of the memory that a run on this device lives in."""
    if device == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


# -- time -----------------------------------------------------------------------------------------


def estimate(settings: Settings, size: Size, rates: Rates, counts: Counts) -> Work:
    """Seconds, bytes in memory and bytes on disk of a run."""
    g, r, samples = settings.grpo, settings.rollout, settings.evaluate.samples
    steps, evaluations = [], []
    for share in (0.5, 1.0):
        one = _Pace(settings=settings, size=size, rates=rates, prompt=counts.tokens, share=share)
        steps.append(
            one.sampling(g.prompts_per_step, r.group_size) + one.training(g.prompts_per_step * r.group_size)
        )
        times, judge = validations(settings, counts), settings.judge
        validation = one.sampling(counts.validation, samples) * times
        if settings.reward.judges and judge.anchors:
            validation += one.sampling(min(judge.anchor_prompts, counts.train), samples) * max(1, times)
        if settings.prompts.probe:
            validation += one.sampling(counts.train, settings.prompts.probe)
        comparison = one.sampling(counts.held_out, samples) + one.sampling(counts.held_out, 1)
        evaluations.append(validation + 2 * comparison)
    return Work(
        step=(steps[0], steps[1]),
        evaluation=(evaluations[0], evaluations[1]),
        memory=(memory(settings, size, rates, counts, 1.0), memory(settings, size, rates, counts, SLACK)),
        disk=disk(settings, size, counts),
    )


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """How long things take where answers have `share` of rollout.max_tokens."""

    settings: Settings
    size: Size
    rates: Rates
    prompt: int  # tokens
    share: float

    @property
    def answer(self) -> float:
        return self.share * self.settings.rollout.max_tokens

    @property
    def launch(self) -> float:
        return self.size.layers * LAUNCH.get(self.rates.device, LAUNCH["cuda"])

    def sampling(self, prompts: int, members: int) -> float:
        """Seconds of sampling; the longest answer of a batch decides how many forward passes there are, and
        with answers of half the length on average it is taken to reach three quarters."""
        rows = prompts * members
        if not rows:
            return 0.0
        batches = -(-rows // MAX_ROWS)
        passes = batches * (1 + self.settings.rollout.max_tokens * (1 + self.share) / 2)
        head = self.size.vocabulary * self.size.hidden
        prefill = prompts * self.prompt * 2 * self.size.linear / (self.rates.train * EFFICIENCY)
        decode = 2 * (self.size.linear + head) / (self.rates.decode * EFFICIENCY)
        drawing = self.size.vocabulary * VOCABULARY_BYTES / self.rates.bytes
        return passes * self.launch + prefill + rows * self.answer * (decode + drawing)

    def training(self, rows: int) -> float:
        """Seconds of one step's updates: every completion goes through the model whole."""
        m, g = self.settings.model, self.settings.grpo
        tokens = rows * (self.prompt + self.answer)
        work = PASSES_BACK[m.adapter] * (
            tokens * 2 * self.size.linear + rows * self.answer * 2 * self.size.vocabulary * self.size.hidden
        )
        moved = TRAFFIC * tokens * self.size.layers * activation(self.settings, self.size, self.rates)
        batches = -(-tokens // g.tokens_per_micro_batch)
        once = work / (self.rates.train * EFFICIENCY) + moved / self.rates.bytes + 3 * batches * self.launch
        return g.updates_per_step * once + (once / 3 if g.kl > 0 else 0.0)


# -- memory ---------------------------------------------------------------------------------------


def activation(settings: Settings, size: Size, rates: Rates) -> float:
    """Bytes that one token leaves behind in one layer for the way back: 34 numbers of the hidden width and 4
    of the inner one in the compute format; an adapter keeps its inputs in float32 beside them."""
    form = 2 if rates.dtype == "bfloat16" else 4
    kept = form * (34 * size.hidden + 4 * size.intermediate)
    return kept + (4.0 * (6 * size.hidden + size.intermediate) if settings.model.adapter == "lora" else 0.0)


def memory(settings: Settings, size: Size, rates: Rates, counts: Counts, slack: float) -> float:
    """Bytes at the peak."""
    m, g, r = settings.model, settings.grpo, settings.rollout
    form = 2 if rates.dtype == "bfloat16" else 4
    held = PROGRAM.get(rates.device, PROGRAM["cuda"]) + size.trainable(settings) * OPTIMIZER
    if m.adapter == "lora":
        held += size.parameters * form
    else:
        held += size.parameters * (form if form == 2 else 0)  # autocast keeps a copy in the compute format
        held += size.parameters * 4 if g.kl > 0 else 0  # the reference
    length = counts.tokens + r.max_tokens
    asked = max(
        g.prompts_per_step * r.group_size, max(counts.held_out, counts.validation) * settings.evaluate.samples
    )
    rows = min(asked, MAX_ROWS, max(1, (1 << 17) // length))
    caches = rows * length * size.layers * 2 * size.kv * form
    sampling = caches + rows * size.vocabulary * 28
    batch = max(g.tokens_per_micro_batch, length)
    logits = batch * size.vocabulary * 2 * form + min(batch * size.vocabulary, 1 << 25) * 12
    training = batch * size.layers * activation(settings, size, rates) + logits
    return held + slack * max(sampling, training)


def disk(settings: Settings, size: Size, counts: Counts) -> float:
    """Bytes of the run's folder: checkpoints (weights and two moments), the model, the record of every
    completion (about 25 bytes a sampled token, 6 a prompt's)."""
    g = settings.grpo
    trained = size.trainable(settings)
    form = 4 if settings.model.adapter == "lora" else 2
    kept = min(g.keep_checkpoints, -(-g.steps // g.checkpoint_every)) + 1  # and the best one
    completions = g.steps * g.prompts_per_step * settings.rollout.group_size
    record = completions * (25 * settings.rollout.max_tokens + 6 * counts.tokens + 500)
    return float(kept * trained * 12 + trained * form + record)
