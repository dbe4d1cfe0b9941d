"""What a token contributes to the loss, before it is weighted: one small function for each idea.

Each takes log-probs of the sampled tokens now (`new_B_T`, with gradient) and when they were sampled
(`old_B_T`), the rows' advantages [B, 1] (or, but for losses of whole rows, the tokens' [B, T]), the mask of
sampled tokens and the two clip ranges. Each gives the loss of every token ([B, T], or [B, 1] where it is the
same for a whole row), and on which tokens the clip acted. Where A = 0 none has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Terms = tuple[torch.Tensor, torch.Tensor]  # loss with gradient, clip acted (bool); [B, T] or [B, 1]
Surrogate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float, float], Terms]

SAPO_GOOD, SAPO_BAD = 1.0, 1.05
"""Temperatures of the gate for A > 0 and A <= 0 (the paper's): bad tokens' gradients fade sooner, as they
raise many unrelated tokens at once."""


DPPO_MOST = 20.0
"""Above this DPPO cuts a token's ratio, as its authors' program does: tokens so rare that even such a change
stays within the region."""
DPPO_LEAST = 1e-8
"""The least probability of all other tokens together, for a logarithm of it."""


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


def tv_mask(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    mask_B_T: torch.Tensor,
    low: float,
    high: float,
) -> Terms:
    """DPPO with its binary total variation (arXiv 2602.04879): -m sg(min(r, DPPO_MOST)) A log new.

    The trust region is drawn by how much probability has moved, not by the ratio: a rare token may become
    many times as likely, a frequent one may not lose half of its mass. Of all tokens' total variation the
    sampled token alone is known; told from all others together it is |new - old| (probabilities), which is
    never more than the whole. m = 0, and the token has no gradient, where new - old > high for A > 0, or
    new - old < -low for A <= 0; a move back is always let through."""
    moved = new_B_T.detach().exp() - old_B_T.exp()
    return _masked(new_B_T, old_B_T, advantage_B_1, moved > high, moved < -low)


def kl_mask(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    mask_B_T: torch.Tensor,
    low: float,
    high: float,
) -> Terms:
    """DPPO with its binary KL (arXiv 2602.04879): as `tv_mask`, the distance being that of the sampled token
    against all others together, q log(q / p) + (1 - q) log((1 - q) / (1 - p)) with q = old, p = new. m = 0
    where it is above high, A > 0 and p > q; or above low, A <= 0 and p < q."""
    now_B_T = new_B_T.detach()
    p, q = now_B_T.exp(), old_B_T.exp()
    others = ((1 - q).clamp(min=DPPO_LEAST) / (1 - p).clamp(min=DPPO_LEAST)).log()
    distance = q * (old_B_T - now_B_T) + (1 - q) * others
    return _masked(new_B_T, old_B_T, advantage_B_1, (distance > high) & (p > q), (distance > low) & (p < q))


def _masked(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantage_B_1: torch.Tensor,
    above_B_T: torch.Tensor,
    below_B_T: torch.Tensor,
) -> Terms:
    """DPPO's term: no gradient for good tokens that are `above` the region, and for bad ones `below` it."""
    ratio = torch.exp(new_B_T.detach() - old_B_T)
    out = torch.where(advantage_B_1 > 0, above_B_T, below_B_T)
    weight = torch.where(out, 0.0, ratio.clamp(max=DPPO_MOST))
    return -weight * advantage_B_1 * new_B_T, out | (ratio > DPPO_MOST)


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
    "luspo": sequence_clip,
    "dppo_tv": tv_mask,
    "dppo_kl": kl_mask,
}
