"""The losses, as pure functions: named inputs in, loss and metrics out, the denominator explicit.

All of them are one sum over sampled tokens,

    loss = sum_b w_b sum_t ( -min(r_bt A_b, clip(r_bt, 1 - low, 1 + high) A_b) + beta kl_bt ),
    r_bt = exp(log pi(o_bt) - log pi_old(o_bt))     (row b, token t),

and differ in the weight w_b of a row's tokens (`row_weights`). Because the weights are known before
any forward pass, the sum may be split over micro-batches at will without changing the result.

Left out: the sequence-level ratio (GSPO) and soft clips (CISPO, SAPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def row_weights(loss: str, lengths_B: Sequence[int], *, max_tokens: int) -> list[float]:
    """The weight of each token of a row with `lengths_B[b]` sampled tokens, B rows in the whole batch.

    - "grpo" (arXiv 2402.03300): 1 / (B * length): mean over a row's tokens, then over rows.
    - "dapo" (arXiv 2503.14476): 1 / (all sampled tokens): one mean over all tokens.
    - "dr_grpo" (arXiv 2503.20783): 1 / (B * max_tokens): a constant, so that long answers are not
      favoured when wrong.

    >>> row_weights("grpo", [2, 4], max_tokens=8)
    [0.25, 0.125]
    >>> row_weights("dr_grpo", [2, 4], max_tokens=8)
    [0.0625, 0.0625]
    """
    B = len(lengths_B)
    if loss == "grpo":
        return [1 / (B * n) for n in lengths_B]
    if loss == "dapo":
        return [1 / sum(lengths_B)] * B
    if loss == "dr_grpo":
        return [1 / (B * max_tokens)] * B
    raise ValueError(f"unknown loss {loss!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums:
    """Sums over the tokens of one micro-batch; the caller divides by its own token count."""

    loss: torch.Tensor  # scalar, with gradient
    clipped_tokens: int  # tokens whose gradient the clip took away


def policy_loss(
    logprobs_B_T: torch.Tensor,
    old_logprobs_B_T: torch.Tensor,
    advantages_B: torch.Tensor,
    weights_B: torch.Tensor,
    mask_B_T: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_B_T: torch.Tensor | None = None,
    kl: float = 0.0,
    kl_estimator: str = "k3",
) -> LossSums:
    """The clipped policy loss, with beta = `kl` times the KL term where a reference is given."""
    ratio = torch.exp(logprobs_B_T - old_logprobs_B_T)
    advantage = advantages_B[:, None]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token = -torch.minimum(ratio * advantage, clipped * advantage)
    cut = ((ratio < 1 - clip_low) & (advantage < 0)) | ((ratio > 1 + clip_high) & (advantage > 0))
    if reference_B_T is not None and kl > 0:
        per_token = per_token + kl * kl_terms(logprobs_B_T, reference_B_T, kl_estimator)
    weighted = torch.where(mask_B_T, per_token * weights_B[:, None], 0.0)
    return LossSums(loss=weighted.sum(), clipped_tokens=int((cut & mask_B_T).sum()))


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
