"""The distance to the reference: estimates of it, and the coefficient that holds it near a target."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from refine_rl.settings import Settings
from refine_rl.types import StepMetrics

GAIN = 0.1  # Ziegler et al.'s K_beta: a step changes the coefficient by at most GAIN * MOST = 2 %
MOST = 0.2


def kl_terms(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimates of KL(pi || reference) from tokens of pi, with d = log reference - log pi
    (Schulman 2020, "Approximating KL divergence"): k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1.

    Some texts put a factor 1/2 before k3; the field's definition, and this one, has none. As a loss
    term k1 has a gradient whose mean is 0: use k2 or k3 there.
    """
    d = reference - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d * d / 2
    if estimator == "k3":
        return torch.exp(d) - d - 1
    raise ValueError(f"unknown KL estimator {estimator!r}")


def adapted(first: float, target: float, measured: Iterable[float | None]) -> float:
    """The coefficient after steps with these KLs, from `first` on (Ziegler et al. 2019, arXiv 1909.08593):

        e = clip((KL - target) / target, -0.2, 0.2),   beta <- beta (1 + 0.1 e).

    A step without a measured KL leaves it as it is.

    >>> adapted(1.0, 0.5, [5.0])  # far too far: 2 % more
    1.02
    >>> adapted(1.0, 0.5, [0.5, None])
    1.0
    """
    beta = first
    for kl in measured:
        if kl is not None:
            beta *= 1 + GAIN * max(-MOST, min(MOST, (kl - target) / target))
    return beta


def at_step(settings: Settings, history: Iterable[StepMetrics], step: int) -> Settings:
    """The settings with the KL coefficient of `step` in `grpo.kl`: the settings themselves without
    `grpo.kl_target`. Only the KLs on record of the steps before decide, so a resumed run has the
    coefficient of the unbroken one."""
    g = settings.grpo
    if g.kl_target is None:
        return settings
    before = {m.step: m.kl for m in history if m.step < step}
    beta = adapted(g.kl, g.kl_target, (before[s] for s in sorted(before)))
    return settings.model_copy(update={"grpo": g.model_copy(update={"kl": beta})})
