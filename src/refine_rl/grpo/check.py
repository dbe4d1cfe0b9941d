"""Is the sampler the trainer? Every step the trainer's log-probs of sampled tokens, before any weight
has moved, are held against those that the sampler recorded. They must agree up to rounding; where
they do not, the rollouts came from another policy, and training on them would teach noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from refine_rl.config import Settings
from refine_rl.errors import GuardStop
from refine_rl.grpo.batch import sampled_logprobs
from refine_rl.policy.logprobs import logprobs, token_batch
from refine_rl.policy.policy import Policy
from refine_rl.types import Trajectory

TOLERANCE = {torch.float32: 5e-4, torch.bfloat16: 3e-2}
"""Mean difference in nats a token. Rounding alone gives about 1e-6 in float32 and 2e-3 to 1e-2 in
bfloat16 (eight bits of mantissa); another policy gives 0.1 and more."""

PROBE_ROWS = 4
"""Trajectories that are looked at where no training pass covers them anyway."""


def tolerance(policy: Policy, settings: Settings) -> float:
    """The allowed mean difference: the setting's, else the number format's."""
    return settings.grpo.mismatch_tolerance or TOLERANCE[policy.compute_dtype]


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
            "No weight was changed by it. Go back to an earlier checkpoint with a lower rate: --resume RUN "
            "--from-step N --set grpo.learning_rate=...",
        )


def _mismatch(
    policy: Policy, trajectories: Sequence[Trajectory], mean: float, settings: Settings, step: int
) -> GuardStop:
    """The error for a mean difference beyond the tolerance, with its likely cause."""
    some = trajectories[:PROBE_ROWS]
    limit = tolerance(policy, settings)
    temperature = settings.rollout.temperature
    cause = "the sampler's weights, number format or prompt tokens are not the trainer's."
    if temperature != 1.0 and float(difference(policy, some, 1.0).mean()) <= limit:
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
        'go on with --set grpo.mismatch_tolerance=..., or start anew with model.dtype = "float32".',
    )
