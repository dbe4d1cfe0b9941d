"""Truncated importance weights, for a sampler that is not the trainer (another engine or number format) or
that lags behind it.

Three policies take part: mu sampled, pi_0 is the trainer when the step's update begins, pi is the trainer
now. Without a cap the loss takes mu for the old policy: one ratio pi / mu stands for both differences, and
the clip acts on their product. With a cap C the two are kept apart,

    weight = min(pi_0 / mu, C),   ratio = pi / pi_0     (for each token),

so that the clip bounds the update alone, and the weight, which has no gradient, corrects for the sampler
(as "truncated importance sampling", Yao et al. 2025, "Your efficient RL framework secretly brings you
off-policy RL training"; Ionides 2008). In the first of a step's updates the ratio is then exactly 1.
"""

from __future__ import annotations

import torch


def weights(trainer: torch.Tensor, sampler: torch.Tensor) -> torch.Tensor:
    """pi_0 / mu from log-probs of the same tokens, before it is cut.

    >>> weights(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0])).tolist()
    [1.0, 2.7182817459106445]
    """
    return torch.exp(trainer - sampler).detach()
