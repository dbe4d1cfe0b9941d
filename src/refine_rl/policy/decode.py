"""Sampling with shared prompts: a prompt's keys and values stand once for all its members.

All prompts are prefilled as one packed row (prefix.py); then every step is one packed row of one token for
each member that still writes. Keys and values of what members write lie in a buffer made beforehand;
members that have stopped leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from refine_rl.policy.prefix import pack

KeysAndValues = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Layer -> keys and values."""

LEAVE = 8  # rows are moved together once one in so many has stopped: moving costs a copy


class Decoding:
    """The keys and values of R rows that are being sampled, members of P prompts.

    `attend` is called by the attention function for each layer; `advance` after each token.
    """

    def __init__(
        self,
        prompt_ids: Sequence[Sequence[int]],
        members: int,
        prefill: KeysAndValues,
        room: int,
    ) -> None:
        self.lengths = [len(p) for p in prompt_ids]
        self.members = members
        P, R = len(prompt_ids), len(prompt_ids) * members
        some = next(iter(prefill.values()))[0]
        K, _, D = some.shape
        device = some.device
        longest = max(self.lengths)
        self._even = min(self.lengths) == longest
        self._prefix = {layer: (self._padded(k), self._padded(v)) for layer, (k, v) in prefill.items()}
        self._room = room
        self._own = {
            layer: (
                torch.empty(R, K, room, D, dtype=k.dtype, device=device),
                torch.empty(R, K, room, D, dtype=v.dtype, device=device),
            )
            for layer, (k, v) in prefill.items()
        }
        self.prompt_of = torch.arange(P, device=device).repeat_interleave(members)  # [R]
        self.length_of = torch.tensor(self.lengths, device=device)  # [P]
        self.t = 0
        self._regroup()

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        """[K, N, D] of all prompts -> [P, K, L, D]."""
        K, _, D = x.shape
        P, longest = len(self.lengths), max(self.lengths)
        if self._even:
            return x.view(K, P, longest, D).transpose(0, 1).contiguous()
        out = x.new_zeros(P, K, longest, D)
        start = 0
        for p, n in enumerate(self.lengths):
            out[p, :, :n] = x[:, start : start + n]
            start += n
        return out

    def _regroup(self) -> None:
        """Which rows belong to which prompt, as a padded table [P', M]."""
        prompts, counts = torch.unique_consecutive(self.prompt_of, return_counts=True)
        self._alive = prompts
        self._most = int(counts.max())
        self._full = bool((counts == self._most).all())
        start = counts.cumsum(0) - counts
        place = torch.arange(self._most, device=counts.device)[None]
        self._table = (start[:, None] + place).clamp(max=len(self.prompt_of) - 1)  # [P', M]
        self._real = place < counts[:, None]
        every = len(prompts) == len(self.lengths)
        self._now = {
            layer: (k, v) if every else (k[prompts], v[prompts]) for layer, (k, v) in self._prefix.items()
        }
        lengths = self.length_of[prompts]
        L = int(self.length_of.max())
        place = torch.arange(L, device=lengths.device)[None]
        self._outside = None if bool((lengths == L).all()) else place >= lengths[:, None]  # [P', L]

    def stay(self, rows: torch.Tensor) -> None:
        """Only these rows (indices, ascending) go on."""
        for layer, (k, v) in self._own.items():
            fresh = []
            for x in (k, v):
                new = torch.empty(len(rows), *x.shape[1:], dtype=x.dtype, device=x.device)
                new[:, :, : self.t] = x[rows, :, : self.t]
                fresh.append(new)
            self._own[layer] = (fresh[0], fresh[1])
        self.prompt_of = self.prompt_of[rows]
        self._regroup()

    def positions(self) -> torch.Tensor:
        """Of the next token of each row, [1, R]."""
        return (self.length_of[self.prompt_of] + self.t)[None]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int,
    ) -> torch.Tensor:
        """[1, H, R, D], [1, K, R, D], [1, K, R, D] -> [1, R, H, D]."""
        own_k, own_v = self._own[layer]
        own_k[:, :, self.t] = key[0].transpose(0, 1)
        own_v[:, :, self.t] = value[0].transpose(0, 1)
        own_k, own_v = own_k[:, :, : self.t + 1], own_v[:, :, : self.t + 1]
        prefix_k, prefix_v = self._now[layer]
        H, R, D = query.shape[1:]
        P, K, L = prefix_k.shape[:3]
        rep, M = H // K, self._most
        q = query[0].transpose(0, 1).reshape(R, K, rep, D)
        grouped = q.view(P, M, K, rep, D) if self._full else q[self._table]  # [P, M, K, rep, D]
        grouped = grouped.transpose(1, 2).reshape(P, K, M * rep, D)
        before = (grouped @ prefix_k.transpose(2, 3)).view(P, K, M, rep, L)
        if self._outside is not None:
            before = before.masked_fill(self._outside[:, None, None, None], float("-inf"))
        before = before.transpose(1, 2)  # [P, M, K, rep, L]
        before = before.reshape(R, K, rep, L) if self._full else before[self._real]
        own = q @ own_k.transpose(2, 3)  # [R, K, rep, t + 1]
        scores = torch.cat([before, own], dim=-1).float() * scale
        if window:
            scores = self._windowed(scores, L, window)
        weights = scores.softmax(-1).to(value.dtype)
        out = weights[..., L:] @ own_v
        first = weights[..., :L]
        spread = first.view(P, M, K, rep, L) if self._full else first[self._table]
        inner = spread.transpose(1, 2).reshape(P, K, M * rep, L) @ prefix_v
        inner = inner.view(P, K, M, rep, D).transpose(1, 2)
        inner = inner.reshape(R, K, rep, D) if self._full else inner[self._real]
        return (out + inner).reshape(1, R, H, D)

    def _windowed(self, scores: torch.Tensor, L: int, window: int) -> torch.Tensor:
        here = self.positions()[0][:, None]  # [R, 1]
        before = torch.arange(L, device=scores.device)[None]
        own = self.length_of[self.prompt_of][:, None] + torch.arange(self.t + 1, device=scores.device)[None]
        place = torch.cat([before.expand(len(here), L), own], dim=1)
        return scores.masked_fill((here - place >= window)[:, None, None], float("-inf"))


def decode(
    forward: Callable[..., Any],
    head: Callable[[torch.Tensor], torch.Tensor],
    prompt_ids: Sequence[Sequence[int]],
    members: int,
    *,
    room: int,
    device: torch.device,
    draw: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
    stop: torch.Tensor,
    pause: Callable[[], None],
    ended: Callable[[int, list[list[int]], list[list[float]]], None],
    write: Callable[[float], float],
) -> None:
    """Samples `members` rows for each prompt. `forward(ids, positions, layout)` gives hidden states
    [N, hidden], `head` logits of some of them, `draw(logits, rows, t)` a token and its log-prob for each."""
    R = len(prompt_ids) * members
    row = pack(prompt_ids, [[] for _ in prompt_ids])
    prefill: KeysAndValues = {}
    layout = replace(row.packed, keep=lambda layer, k, v: prefill.update({layer: (k, v)}))
    hidden = forward(row.ids.to(device), row.positions.to(device), layout)
    last = torch.tensor([b.end - 1 for b in row.packed.blocks], device=device)
    logits = head(hidden[last]).repeat_interleave(members, dim=0)
    state = Decoding(prompt_ids, members, prefill, room)
    prefill.clear()
    tokens: list[list[int]] = [[] for _ in range(R)]
    logprobs: list[list[float]] = [[] for _ in range(R)]
    writing = [members] * len(prompt_ids)
    rows = torch.arange(R, device=device)
    alive = torch.ones(R, dtype=torch.bool, device=device)
    for t in range(room):
        pause()
        token, logprob = draw(logits, rows, t)
        stopped = alive & (torch.isin(token, stop) | (t + 1 == room))
        for r, ok, i, x in zip(rows.tolist(), alive.tolist(), token.tolist(), logprob.tolist(), strict=True):
            if ok:
                tokens[r].append(i)
                logprobs[r].append(write(x))
        alive = alive & ~stopped
        for r in rows[stopped].tolist():
            p = r // members
            writing[p] -= 1
            if writing[p] == 0:
                its = slice(p * members, (p + 1) * members)
                ended(p, tokens[its], logprobs[its])
        left = int(alive.sum())
        if left == 0:
            break
        if len(rows) - left >= max(1, len(rows) // LEAVE):
            stay = alive.nonzero().squeeze(1)
            state.stay(stay)
            rows, token, alive = rows[stay], token[stay], alive[stay]
        hidden = forward(token[None], state.positions(), state)
        state.t += 1
        logits = head(hidden)
