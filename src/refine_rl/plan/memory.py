"""The model's size -> memory and disk of a run.

Peak memory: weights + adapter with gradient and optimizer + the larger of sampling (keys and values of all
rows; one row of logits each) and training (activations and logits of grpo.tokens_per_micro_batch). What
training takes stands in training/memory.py.
"""

from __future__ import annotations

from refine_rl.plan.calls import resampled
from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import MAX_ROWS, Rates
from refine_rl.plan.teacher import teacher_bytes
from refine_rl.plan.team import ALONE, Team
from refine_rl.policy.copies import FUSED_BYTES
from refine_rl.policy.size import Size
from refine_rl.settings import GRPOSettings, ModelSettings, RolloutSettings, Settings
from refine_rl.training.memory import form_of, held, program, training_bytes, whole


def sampling_bytes(size: Size, rates: Rates, *, asked: int, length: int) -> float:
    """Of `asked` rows of up to `length` tokens, as many at once as may be: keys and values, logits; and the
    layers' copies."""
    rows = min(asked, MAX_ROWS, max(1, (1 << 17) // length))
    caches = rows * length * size.layers * 2 * size.kv * form_of(rates)
    copies = size.linear * form_of(rates)
    fused = not size.listens and copies <= FUSED_BYTES.get(rates.device, 0)
    return caches + rows * size.vocabulary * 28 + copies * fused


def memory(
    settings: Settings, size: Size, rates: Rates, counts: Counts, slack: float, team: Team = ALONE
) -> float:
    """Bytes at the peak of GRPO, of a process of the team. After supervised fine-tuning the untouched model
    answers beside the other one, before anything is trained."""
    m, g, r = settings.model, settings.grpo, settings.rollout
    reference = teacher_bytes(settings, form_of(rates)) + size.parameters * 4 * (g.kl > 0 and not m.adapted)
    length = counts.read + r.most_tokens
    own = team.groups
    asked = max(
        own(g.candidates(counts.train)) * r.group_size,
        own(max(counts.held_out, counts.validation)) * settings.evaluate.samples,
    )
    served = settings.engine.served
    sampling = 0.0 if served else sampling_bytes(size, rates, asked=asked, length=length)
    groups = own(g.prompts_per_step + resampled(g, counts)) * (1 + g.replay)
    step = -(-groups // g.minibatches) * r.group_size * length  # a micro-batch has no more than that
    training = training_bytes(m, size, rates, max(min(g.at_once, step), length))
    apart = team.apart(size, rates)
    trained = held(m, size, rates) - apart + slack * max(sampling, training)
    two = program(rates) + 2 * (whole(m, size, form_of(rates)) - apart) + slack * sampling
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
