"""Whole trajectories as tensors: their tokens as they were, and which of them are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refine_rl.types import Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """B whole trajectories. `trainable` and `sampled` come from recorded lengths and provenance, never from
    a token's value."""

    ids: torch.Tensor  # [B, T] long
    attention: torch.Tensor  # [B, T] long, 1 where there is a token
    trainable: torch.Tensor  # [B, T] bool, True where the token is trained on: sampled, or a target
    sampled: torch.Tensor  # [B, T] bool, True where the token was sampled
    prompts: tuple[int, ...]  # length of each row's prompt: its tokens before the first trainable one
    lengths: tuple[int, ...]  # of each row, padding apart


def token_batch(trajectories: Sequence[Trajectory]) -> TokenBatch:
    """The trajectories' tokens as they were, padded on the right with zeros."""
    lengths = [sum(len(s.token_ids) for s in t.segments) for t in trajectories]
    ids = torch.zeros(len(trajectories), max(lengths), dtype=torch.long)
    attention = torch.zeros_like(ids)
    trainable = torch.zeros_like(ids, dtype=torch.bool)
    sampled = torch.zeros_like(trainable)
    for row, trajectory in enumerate(trajectories):
        start = 0
        for segment in trajectory.segments:
            end = start + len(segment.token_ids)
            ids[row, start:end] = torch.tensor(segment.token_ids, dtype=torch.long)
            trainable[row, start:end] = segment.trainable
            sampled[row, start:end] = segment.sampled
            start = end
        attention[row, :start] = 1
    trainable[:, 0] = sampled[:, 0] = False  # nothing stands before the first token that could predict it
    prompts = [len(t.segments[0].token_ids) if not t.segments[0].trainable else 0 for t in trajectories]
    return TokenBatch(
        ids=ids,
        attention=attention,
        trainable=trainable,
        sampled=sampled,
        prompts=tuple(prompts),
        lengths=tuple(lengths),
    )
