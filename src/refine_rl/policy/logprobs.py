"""Log-probs of given tokens under the policy, with gradient.

The plain form: every trajectory goes through the model whole. Rows are padded on the right, where
causal attention never looks, so positions need no correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from refine_rl.policy.policy import Policy
from refine_rl.types import Trajectory

MAX_LOGITS = 1 << 25
"""Logits that are turned into float32 at once (128 MiB); in the backward pass they are made again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """B whole trajectories. `trainable` comes from recorded lengths and provenance, never from a
    token's value."""

    ids: torch.Tensor  # [B, T] long
    attention: torch.Tensor  # [B, T] long, 1 where there is a token
    trainable: torch.Tensor  # [B, T] bool, True where the token was sampled


def token_batch(trajectories: Sequence[Trajectory]) -> TokenBatch:
    """The trajectories' tokens as they were, padded on the right with zeros."""
    lengths = [sum(len(s.token_ids) for s in t.segments) for t in trajectories]
    ids = torch.zeros(len(trajectories), max(lengths), dtype=torch.long)
    attention = torch.zeros_like(ids)
    trainable = torch.zeros_like(ids, dtype=torch.bool)
    for row, trajectory in enumerate(trajectories):
        start = 0
        for segment in trajectory.segments:
            end = start + len(segment.token_ids)
            ids[row, start:end] = torch.tensor(segment.token_ids, dtype=torch.long)
            trainable[row, start:end] = segment.trainable
            start = end
        attention[row, :start] = 1
    trainable[:, 0] = False  # nothing stands before the first token that could predict it
    return TokenBatch(ids=ids, attention=attention, trainable=trainable)


def logprobs(policy: Policy, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
    """log pi(token | all before it) at `temperature`, [B, T] float32, 0 where not trainable."""
    device = policy.device
    ids, trainable = batch.ids.to(device), batch.trainable.to(device)
    # Columns whose successor is trained in some row; the head is computed for no others.
    columns = trainable[:, 1:].any(dim=0).nonzero().squeeze(1)
    logits = policy.forward(
        input_ids=ids,
        attention_mask=batch.attention.to(device),
        use_cache=False,
        logits_to_keep=columns,
    ).logits  # [B, K, V]
    if logits.shape[1] != len(columns):  # an architecture that does not know logits_to_keep
        logits = logits[:, columns]
    targets = ids[:, columns + 1]
    rows = max(1, MAX_LOGITS // max(1, logits[0].numel()))
    chosen = torch.cat(
        [
            checkpoint(_gather, some, chosen_ids, temperature, use_reentrant=False)
            if torch.is_grad_enabled()
            else _gather(some, chosen_ids, temperature)
            for some, chosen_ids in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
        ]
    )
    out = torch.zeros(ids.shape, dtype=torch.float32, device=device)
    return out.index_copy(1, columns + 1, chosen).masked_fill(~trainable, 0.0)


def _gather(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    scaled = logits.float() / temperature
    return scaled.gather(-1, targets[..., None]).squeeze(-1) - scaled.logsumexp(-1)
