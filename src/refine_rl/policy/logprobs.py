"""Log-probs of given tokens under the policy, with gradient.

The fast form packs the rows: a prompt that several rows begin with goes through the model once, and
nothing is padded (prefix.py, head.py). The plain form, its twin, sends every trajectory through the model
whole: rows are padded on the right, where causal attention never looks, so positions need no correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from refine_rl.policy.fast import Fast, gather
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
    prompts: tuple[int, ...]  # length of each row's prompt: its tokens before the first sampled one
    lengths: tuple[int, ...]  # of each row, padding apart


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
    prompts = [len(t.segments[0].token_ids) if not t.segments[0].trainable else 0 for t in trajectories]
    return TokenBatch(
        ids=ids, attention=attention, trainable=trainable, prompts=tuple(prompts), lengths=tuple(lengths)
    )


def logprobs(policy: Policy, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
    """log pi(token | all before it) at `temperature`, [B, T] float32, 0 where not trainable."""
    fast = policy.fast
    if fast is None or min(batch.prompts) == 0:
        return plain_logprobs(policy, batch, temperature=temperature)
    return _packed_logprobs(policy, fast, batch, temperature)


def _packed_logprobs(policy: Policy, fast: Fast, batch: TokenBatch, temperature: float) -> torch.Tensor:
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, length in enumerate(batch.prompts):
        groups.setdefault(tuple(batch.ids[row, :length].tolist()), []).append(row)
    suffixes = [
        [batch.ids[row, batch.prompts[row] : batch.lengths[row]].tolist() for row in rows]
        for rows in groups.values()
    ]
    packed, sources, targets = gather(list(groups), suffixes, policy.device)
    rows = torch.cat(
        [
            torch.full((len(s),), r)
            for rs, ss in zip(groups.values(), suffixes, strict=True)
            for r, s in zip(rs, ss, strict=True)
        ]
    )
    columns = torch.cat(
        [torch.arange(batch.prompts[r], batch.lengths[r]) for rs in groups.values() for r in rs]
    )
    wanted = batch.trainable[rows, columns]  # others were said by an environment
    rows, columns = rows[wanted].to(policy.device), columns[wanted].to(policy.device)
    wanted = wanted.to(policy.device)
    with policy.precision():
        found = fast.logprobs(packed, sources[wanted], targets[wanted], temperature)
    out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=policy.device)
    return out.index_put((rows, columns), found)


def plain_logprobs(policy: Policy, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
    """The same, every row through the model whole: the plain twin."""
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
