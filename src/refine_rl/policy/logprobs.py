"""Log-probs of given tokens under the policy, with gradient.

The fast form packs the rows: a prompt that several rows begin with goes through the model once, and
nothing is padded (prefix.py, head.py). Rows of which nothing was sampled, answers to imitate, share no
prompt: each is one causal block (whole_rows.py). The plain form, the twin of both, sends every trajectory
through the model whole: rows are padded on the right, where causal attention never looks, so positions need
no correction.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from refine_rl.policy.fast import Fast, gather
from refine_rl.policy.protocol import DecoderNetwork
from refine_rl.policy.tokens import TokenBatch
from refine_rl.policy.whole_rows import pack_whole

MAX_LOGITS = 1 << 25
"""Logits that are turned into float32 at once (128 MiB); in the backward pass they are made again."""


def logprobs(network: DecoderNetwork, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
    """log pi(token | all before it) at `temperature`, [B, T] float32, 0 where not trainable."""
    fast = network.fast
    if fast is None or min(batch.prompts) == 0:
        return plain_logprobs(network, batch, temperature=temperature)
    if not batch.sampled.any():
        return _whole_logprobs(network, fast, batch, temperature)
    return _packed_logprobs(network, fast, batch, temperature)


def _whole_logprobs(
    network: DecoderNetwork, fast: Fast, batch: TokenBatch, temperature: float
) -> torch.Tensor:
    rows, columns = batch.trainable.nonzero(as_tuple=True)
    last = torch.zeros(len(batch.ids), dtype=torch.long).scatter_reduce(0, rows, columns, "amax")
    # What follows a row's last trainable token predicts nothing, and neither does that token.
    row, starts = pack_whole([ids[:n].tolist() for ids, n in zip(batch.ids, last.tolist(), strict=True)])
    sources, targets = starts[rows] + columns - 1, batch.ids[rows, columns]
    device = network.device
    with network.precision():
        found = fast.logprobs(row.to(device), sources.to(device), targets.to(device), temperature)
    out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=device)
    return out.index_put((rows.to(device), columns.to(device)), found)


def _packed_logprobs(
    network: DecoderNetwork, fast: Fast, batch: TokenBatch, temperature: float
) -> torch.Tensor:
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, length in enumerate(batch.prompts):
        groups.setdefault(tuple(batch.ids[row, :length].tolist()), []).append(row)
    suffixes = [
        [batch.ids[row, batch.prompts[row] : batch.lengths[row]].tolist() for row in rows]
        for rows in groups.values()
    ]
    packed, sources, targets = gather(list(groups), suffixes, network.device)
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
    rows, columns = rows[wanted].to(network.device), columns[wanted].to(network.device)
    wanted = wanted.to(network.device)
    with network.precision():
        found = fast.logprobs(packed, sources[wanted], targets[wanted], temperature)
    out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=network.device)
    return out.index_put((rows, columns), found)


def plain_logprobs(network: DecoderNetwork, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
    """The same, every row through the model whole: the plain twin."""
    device = network.device
    ids, trainable = batch.ids.to(device), batch.trainable.to(device)
    # Columns whose successor is trained in some row; the head is computed for no others.
    columns = trainable[:, 1:].any(dim=0).nonzero().squeeze(1)
    logits = network.forward(
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
