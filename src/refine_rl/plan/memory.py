"""The model's size -> memory and disk of a run.

Peak memory: weights + adapter with gradient and optimizer + the larger of sampling (keys and values of all
rows; one row of logits each) and training (activations and logits of grpo.tokens_per_micro_batch).
"""

from __future__ import annotations

from refine_rl.plan.calls import resampled
from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import MAX_ROWS, Rates, Size
from refine_rl.settings import GRPOSettings, ModelSettings, RolloutSettings, Settings

PROGRAM = {"cpu": 0.5e9, "cuda": 0.7e9}  # bytes: Python and libraries; the device's context
OPTIMIZER = 16  # bytes a trained weight: itself, its gradient, two moments of AdamW, all float32
SLACK = 2.0  # activations and buffers in the high figure: what an allocator does not give back


def activation(model: ModelSettings, size: Size, rates: Rates) -> float:
    """Bytes that one token leaves behind in one layer for the way back: 34 numbers of the hidden width and 4
    of the inner one in the compute format; an adapter keeps its inputs in float32 beside them."""
    form = 2 if rates.dtype == "bfloat16" else 4
    kept = form * (34 * size.hidden + 4 * size.intermediate)
    return kept + (4.0 * (6 * size.hidden + size.intermediate) if model.adapted else 0.0)


def weights(model: ModelSettings, size: Size, form: int) -> float:
    """Bytes of the model as it is held, its products in a format of `form` bytes: autocast keeps a copy in
    that one of weights that are trained."""
    if model.quantised:
        return (size.parameters - size.linear) * form + size.linear * packed(model.quantised)
    return size.parameters * (form if model.adapted or form == 2 else 0)


def packed(bits: int) -> float:
    """Bytes of a quantised weight, with its part of the scales: of 4 bits a byte for 64."""
    return bits / 8 + (1 / 64 if bits == 4 else 0)


def memory(settings: Settings, size: Size, rates: Rates, counts: Counts, slack: float) -> float:
    """Bytes at the peak."""
    m, g, r = settings.model, settings.grpo, settings.rollout
    form = 2 if rates.dtype == "bfloat16" else 4
    held = PROGRAM.get(rates.device, PROGRAM["cuda"]) + size.trainable(m) * OPTIMIZER
    held += weights(m, size, form)
    held += size.parameters * 4 if g.kl > 0 and not m.adapted else 0  # the reference
    length = counts.tokens + r.max_tokens
    asked = max(
        g.prompts_per_step * r.group_size, max(counts.held_out, counts.validation) * settings.evaluate.samples
    )
    rows = min(asked, MAX_ROWS, max(1, (1 << 17) // length))
    caches = rows * length * size.layers * 2 * size.kv * form
    sampling = caches + rows * size.vocabulary * 28
    batch = max(g.tokens_per_micro_batch, length)
    logits = batch * size.vocabulary * 2 * form + min(batch * size.vocabulary, 1 << 25) * 12
    layers = 1 if m.gradient_checkpointing else size.layers
    training = batch * layers * activation(m, size, rates) + logits
    if m.gradient_checkpointing:
        training += batch * size.layers * size.hidden * form
    return held + slack * max(sampling, training)


def disk(
    model: ModelSettings, grpo: GRPOSettings, rollout: RolloutSettings, size: Size, counts: Counts
) -> float:
    """Bytes of the run's folder: checkpoints (weights and two moments), the model, the record of every
    completion (about 25 bytes a sampled token, 6 a prompt's)."""
    g = grpo
    trained = size.trainable(model)
    form = 4 if model.adapted else 2
    kept = min(g.keep_checkpoints, -(-g.steps // g.checkpoint_every)) + 1  # and the best one
    groups = g.steps * (g.prompts_per_step + resampled(g, counts))
    record = groups * rollout.group_size * (25 * rollout.max_tokens + 6 * counts.tokens + 500)
    return float(kept * trained * 12 + trained * form + record)
