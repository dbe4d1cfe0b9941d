"""The model's size -> memory and disk of a run.

Peak memory: weights + adapter with gradient and optimizer + the larger of sampling (keys and values of all
rows; one row of logits each) and training (activations and logits of grpo.tokens_per_micro_batch).

On an accelerator attention leaves no scores behind, an adapter's inputs no copy, and the head works in tiles
whatever the vocabulary: 374 million weights in bfloat16 with LoRA took 9.1 GB with 8,192 tokens at once and
13.6 GB with 12,288 on an H200 (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from refine_rl.plan.calls import resampled
from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import MAX_ROWS, Rates, Size
from refine_rl.plan.team import ALONE, Team
from refine_rl.settings import GRPOSettings, ModelSettings, RolloutSettings, Settings

PROGRAM = {"cpu": 0.5e9, "cuda": 0.7e9}  # bytes: Python and libraries; the device's context
OPTIMIZER = 16  # bytes a trained weight: itself, its gradient, two moments of AdamW, all float32
TILES = 3 * 4 * 2048 * 32768  # bytes of the head's tiles on an accelerator, with what is made of them
SLACK = 2.0  # activations and buffers in the high figure: what an allocator does not give back


def activation(model: ModelSettings, size: Size, rates: Rates) -> float:
    """Bytes that one token leaves behind in one layer for the way back: 34 numbers of the hidden width (on an
    accelerator 10) and 4 of the inner one in the compute format; on a processor an adapter keeps its inputs
    in float32 beside them."""
    form, processor = form_of(rates), rates.device == "cpu"
    kept = form * ((34 if processor else 10) * size.hidden + 4.0 * size.intermediate)
    return kept + (4.0 * (6 * size.hidden + size.intermediate) if model.adapted and processor else 0.0)


def weights(model: ModelSettings, size: Size, form: int) -> float:
    """Bytes of the model as it is held, its products in a format of `form` bytes: autocast keeps a copy in
    that one of weights that are trained."""
    if model.quantised:
        return (size.parameters - size.linear) * form + size.linear * packed(model.quantised)
    return size.parameters * (form if model.adapted or form == 2 else 0)


def packed(bits: int) -> float:
    """Bytes of a quantised weight, with its part of the scales: of 4 bits a byte for 64."""
    return bits / 8 + (1 / 64 if bits == 4 else 0)


def whole(model: ModelSettings, size: Size, form: int) -> float:
    """Bytes of the model's weights alone."""
    return weights(model, size, form) if model.adapted else size.parameters * 4.0


def held(model: ModelSettings, size: Size, rates: Rates) -> float:
    """Bytes that are there all the time while it is trained: the program, the model, what is trained."""
    return program(rates) + size.trainable(model) * OPTIMIZER + weights(model, size, form_of(rates))


def program(rates: Rates) -> float:
    """Bytes without any model."""
    return PROGRAM.get(rates.device, PROGRAM["cuda"])


def form_of(rates: Rates) -> int:
    """Bytes of a number in the compute format."""
    return 2 if rates.dtype == "bfloat16" else 4


def sampling_bytes(size: Size, rates: Rates, *, asked: int, length: int) -> float:
    """Of `asked` rows of up to `length` tokens, as many at once as may be: keys and values, logits."""
    rows = min(asked, MAX_ROWS, max(1, (1 << 17) // length))
    caches = rows * length * size.layers * 2 * size.kv * form_of(rates)
    return caches + rows * size.vocabulary * 28


def training_bytes(model: ModelSettings, size: Size, rates: Rates, batch: int) -> float:
    """Of a micro-batch of so many tokens: activations and logits."""
    form = form_of(rates)
    logits = float(TILES)
    if rates.device == "cpu":
        logits = batch * size.vocabulary * 2 * form + min(batch * size.vocabulary, 1 << 25) * 12
    layers = 1 if model.gradient_checkpointing else size.layers
    training = batch * layers * activation(model, size, rates) + logits
    if model.gradient_checkpointing:
        training += batch * size.layers * size.hidden * form
    return training


def memory(
    settings: Settings, size: Size, rates: Rates, counts: Counts, slack: float, team: Team = ALONE
) -> float:
    """Bytes at the peak of GRPO, of a process of the team. After supervised fine-tuning the untouched model
    answers beside the other one, before anything is trained."""
    m, g, r = settings.model, settings.grpo, settings.rollout
    reference = size.parameters * 4 if g.kl > 0 and not m.adapted else 0
    length = counts.read + r.most_tokens
    own = team.groups
    asked = max(
        own(g.prompts_per_step) * r.group_size,
        own(max(counts.held_out, counts.validation)) * settings.evaluate.samples,
    )
    sampling = sampling_bytes(size, rates, asked=asked, length=length)
    training = training_bytes(m, size, rates, max(g.tokens_per_micro_batch, length))
    trained = held(m, size, rates) + slack * max(sampling, training)
    two = program(rates) + 2 * whole(m, size, form_of(rates)) + slack * sampling
    return reference + (trained if settings.sft is None else max(trained, two))


def disk(
    model: ModelSettings, grpo: GRPOSettings, rollout: RolloutSettings, size: Size, counts: Counts
) -> float:
    """Bytes of the run's folder: checkpoints (weights and two moments), the model, the record of every
    completion (about 25 bytes a sampled token, 6 a prompt's)."""
    g = grpo
    groups = g.steps * (g.prompts_per_step + resampled(g, counts))
    record = groups * rollout.group_size * (25 * rollout.most_tokens + 6 * counts.read + 500)
    kept = min(g.keep_checkpoints, -(-g.steps // g.checkpoint_every)) + 1  # and the best one
    return kept_weights(model, size, kept) + record


def kept_weights(model: ModelSettings, size: Size, checkpoints: int) -> float:
    """Bytes of so many checkpoints and of the tuned model."""
    trained = size.trainable(model)
    return float(checkpoints * trained * 12 + trained * (4 if model.adapted else 2))
