"""What a token contributes to the loss, before it is weighted: one small function for each idea.

Each takes log-probs of the sampled tokens now (`new_B_T`, with gradient) and when they were sampled
(`old_B_T`), the rows' advantages [B, 1], the mask of sampled tokens and the two clip ranges. Each gives
the loss of every token ([B, T], or [B, 1] where it is the same for a whole row), and on which tokens the
clip acted. Where A = 0 none has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Terms = tuple[torch.Tensor, torch.Tensor]  # loss with gradient, clip acted (bool); [B, T] or [B, 1]
Surrogate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float, float], Terms]

SAPO_GOOD, SAPO_BAD = 1.0, 1.05
"""Temperatures of the gate for A > 0 and A <= 0 (the paper's): bad tokens' gradients fade sooner, as they
raise many unrelated tokens at once."""


def token_clip(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    mask_B_T: torch.Tensor,
    low: float,
    high: float,
) -> Terms:
    """PPO's clip (arXiv 1707.06347), as in GRPO: -min(r A, clip(r, 1 - low, 1 + high) A), r = new / old."""
    return _clipped(torch.exp(new_B_T - old_B_T), advantage_B_1, low, high)


def sequence_clip(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    mask_B_T: torch.Tensor,
    low: float,
    high: float,
) -> Terms:
    """GSPO (arXiv 2507.18071): -min(s A, clip(s, 1 - low, 1 + high) A) with one ratio a row, the geometric
    mean of its tokens' ratios: s = exp(mean_t log r_t). A row is clipped as a whole or not at all. s is far
    closer to 1 than r is, and so are the paper's ranges."""
    log_ratio = torch.where(mask_B_T, new_B_T - old_B_T, 0.0).sum(1, keepdim=True)
    return _clipped(torch.exp(log_ratio / mask_B_T.sum(1, keepdim=True)), advantage_B_1, low, high)


def weight_clip(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    mask_B_T: torch.Tensor,
    low: float,
    high: float,
) -> Terms:
    """CISPO (MiniMax-M1, arXiv 2506.13585): -sg(clip(r, 1 - low, 1 + high)) A log new, sg: no gradient
    through it. The clip bounds a token's weight, and no token loses its gradient."""
    ratio = torch.exp(new_B_T - old_B_T).detach()
    cut = (ratio < 1 - low) | (ratio > 1 + high)
    return -ratio.clamp(1 - low, 1 + high) * advantage_B_1 * new_B_T, cut


def soft_gate(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    mask_B_T: torch.Tensor,
    low: float,
    high: float,
) -> Terms:
    """SAPO (arXiv 2511.20347): -(4 / tau) sigmoid(tau (r - 1)) A, where tau depends on the sign of A. The
    gradient is that of -r A where r = 1 and fades smoothly on both sides; nothing is clipped, so `low` and
    `high` have no influence."""
    ratio = torch.exp(new_B_T - old_B_T)
    tau = torch.where(advantage_B_1 > 0, SAPO_GOOD, SAPO_BAD)
    gate = torch.sigmoid(tau * (ratio - 1)) * 4 / tau
    return -gate * advantage_B_1, torch.zeros_like(mask_B_T)


def _clipped(ratio: torch.Tensor, advantage_B_1: torch.Tensor, low: float, high: float) -> Terms:
    clipped = ratio.clamp(1 - low, 1 + high)
    cut = ((ratio < 1 - low) & (advantage_B_1 < 0)) | ((ratio > 1 + high) & (advantage_B_1 > 0))
    return -torch.minimum(ratio * advantage_B_1, clipped * advantage_B_1), cut


SURROGATES: dict[str, Surrogate] = {
    "grpo": token_clip,
    "bnpo": token_clip,
    "dapo": token_clip,
    "dr_grpo": token_clip,
    "gspo": sequence_clip,
    "cispo": weight_clip,
    "sapo": soft_gate,
}
