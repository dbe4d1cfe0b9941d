"""Causal attention of texts among themselves."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from refine_rl.policy.wide_attention import wide_attention


def causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, window: int
) -> torch.Tensor:
    """B texts: [B, H, T, D], [B, K, T, D], [B, K, T, D] -> [B, H, T, D]. `window` > 0: a token sees itself
    and window - 1 tokens before it."""
    if q.device.type != "cpu" and torch.is_grad_enabled():
        # torch's flash attention adds gradients up in one order only where whatever else has no fixed order
        # is an error, not where torch is to warn of it.
        return by_products(q, k, v, scale=scale, window=window)
    mask, length = None, q.shape[2]
    if 0 < window < length:
        place = torch.arange(length, device=q.device)
        apart = place[:, None] - place[None]
        mask = (apart >= 0) & (apart < window)
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )


def by_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, window: int
) -> torch.Tensor:
    """The same by plain products, whose gradients are the same in every run."""
    B, H, T, _ = q.shape
    K = k.shape[1]
    # Under autocast rotary positions may leave queries and keys in a wider format than the values.
    q, k = q.to(v.dtype), k.to(v.dtype)
    rows = q.reshape(B, K, H // K, T, -1).transpose(0, 1)  # [K, B, R, T, D]
    own_k, own_v = k.transpose(0, 1), v.transpose(0, 1)
    nothing_k, nothing_v = own_k[:, 0, :0], own_v[:, 0, :0]
    out = wide_attention(rows, own_k, own_v, nothing_k, nothing_v, scale=scale, window=window)
    return out.transpose(0, 1).reshape(B, H, T, -1)
