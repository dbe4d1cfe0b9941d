"""Is the sampler the trainer? Every step the trainer's log-probs of sampled tokens, before any weight
has moved, are held against those that the sampler recorded. They must agree up to rounding; where
they do not, the rollouts came from another policy, and training on them would teach noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from refine_rl.errors import GuardStop
from refine_rl.policy.logprobs import logprobs, token_batch
from refine_rl.policy.policy import Policy
from refine_rl.settings import Settings
from refine_rl.training.rows import sampled_logprobs
from refine_rl.types import Trajectory

MARGIN = {torch.float32: 50.0, torch.bfloat16: 2.5}
"""How many times the rounding that `tolerance` expects is allowed. Measured is 0.01 to 1 of it; one update's
difference of weights is far more in float32, and about as much in bfloat16."""

PROBE_ROWS = 4
"""Trajectories that are looked at where no training pass covers them anyway."""


def tolerance(policy: Policy, settings: Settings) -> float:
    """The allowed mean difference in nats a token: the setting's, else what rounding can do.

    Sampler and trainer add the same numbers in another order. Each of the 2 L additions to the residual
    stream of L layers is rounded by u of its size, and the errors walk at random: u sqrt(2 L) in all. In
    float32 the sums inside the products are float32 as well, over some `hidden_size` terms: times
    sqrt(hidden_size). (In bfloat16 products are summed in float32.) Logits are of the size of 1.
    """
    if settings.grpo.mismatch_tolerance is not None:
        return settings.grpo.mismatch_tolerance
    bare = policy.model.get_base_model() if policy.adapter else policy.model
    config = bare.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None) or 1
    width = getattr(config, "hidden_size", None) or 1
    dtype = policy.compute_dtype
    unit = torch.finfo(dtype).eps / 2
    return float(MARGIN[dtype] * unit * math.sqrt(2 * layers * (width if dtype == torch.float32 else 1)))


@torch.no_grad()
def difference(policy: Policy, trajectories: Sequence[Trajectory], temperature: float) -> torch.Tensor:
    """|log-prob of the trainer - of the sampler| of every sampled token, [N]."""
    batch = token_batch(trajectories)
    new = logprobs(policy, batch, temperature=temperature).cpu()[batch.trainable]
    return (new - torch.tensor([x for t in trajectories for x in sampled_logprobs(t)])).abs()


def compare(
    policy: Policy, trajectories: Sequence[Trajectory], settings: Settings, step: int
) -> torch.Tensor:
    """`difference` over the first few trajectories, [N]; raises GuardStop where it is too large."""
    found = difference(policy, trajectories[:PROBE_ROWS], settings.rollout.temperature)
    require_match(policy, trajectories, found, settings, step)
    return found


def require_match(
    policy: Policy, trajectories: Sequence[Trajectory], found: torch.Tensor, settings: Settings, step: int
) -> None:
    """Raises GuardStop where the mean of `found` (differences of these trajectories) is too large."""
    mean = float(found.mean())
    require_finite(0.0, mean, step)
    if mean > tolerance(policy, settings):
        raise _mismatch(policy, trajectories, mean, settings, step)


def require_finite(loss: float, norm: float, step: int) -> None:
    """Raises GuardStop unless both are finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise GuardStop(
            "not_finite",
            f"Step {step}: the loss is {loss} and the gradient's norm {norm}.",
            "No weight was changed by it. Go back to an earlier checkpoint, with a lower grpo.learning_rate.",
        )


def _mismatch(
    policy: Policy, trajectories: Sequence[Trajectory], mean: float, settings: Settings, step: int
) -> GuardStop:
    """The error for a mean difference beyond the tolerance, with its likely cause."""
    some = trajectories[:PROBE_ROWS]
    limit = tolerance(policy, settings)
    temperature = settings.rollout.temperature
    cause = "the sampler's weights, number format or prompt tokens are not the trainer's."
    if policy.moving:
        cause = (
            f"the model's positions follow the longest text of a batch ({policy.moving}), so that log-probs "
            "depend on a text's neighbours; policy.hold_still fixes them."
        )
    elif temperature != 1.0 and float(difference(policy, some, 1.0).mean()) <= limit:
        cause = f"the sampler did not apply the temperature {temperature}."
    elif policy.adapter or policy.frozen is not None:
        with policy.reference() as untrained:
            if float(difference(untrained, some, temperature).mean()) <= limit:
                cause = "the rollouts came from the untrained weights (the adapter was off in the sampler)."
    return GuardStop(
        "mismatch",
        f"Step {step}: sampler and trainer disagree by {mean:.4f} nats a token on average "
        f"(allowed: {limit:g}).",
        f"Likely cause: {cause} Nothing was learned from these rollouts. If the difference is rounding, "
        'go on with a higher grpo.mismatch_tolerance, or start anew with model.dtype = "float32".',
        limit=2 * mean,
    )
