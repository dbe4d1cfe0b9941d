"""Sampling with shared prompts: a prompt's keys and values stand once for all its members.

All prompts are prefilled as one packed row (prefix.py); then every step is one packed row of one token for
each member that still writes. Keys and values of what members write lie in a buffer made beforehand;
members that have stopped leave it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from refine_rl.policy.attention import scale_queries
from refine_rl.policy.draw import Sampling
from refine_rl.policy.drawer import Drawer
from refine_rl.policy.fast import Fast
from refine_rl.policy.lora import at_rest
from refine_rl.policy.memory import KeysAndValues, Memory
from refine_rl.policy.prefix import pack
from refine_rl.policy.protocol import LEAVE, DecoderNetwork


class ByPrompt:
    """R rows that stand by prompt where they look at it, so that a prompt is read once for all of them:
    [P' K, M rep, n], P' the prompts that have rows, M the most rows of one."""

    def _group(self, prompt_of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Learns whose row each is, [R] ascending; the prompts that have rows, and how many, [P'] each."""
        prompts, counts = torch.unique_consecutive(prompt_of, return_counts=True)
        self._most = int(counts.max())
        self._full = bool((counts == self._most).all())
        start = counts.cumsum(0) - counts
        place = torch.arange(self._most, device=counts.device)[None]
        self._table = (start[:, None] + place).clamp(max=len(prompt_of) - 1)  # [P', M]
        self._back = (place < counts[:, None]).flatten().nonzero()[:, 0]  # [R]: a row's place in the table
        return prompts, counts

    def _by_prompt(self, x: torch.Tensor) -> torch.Tensor:
        """[R, K, rep, n] -> [P' K, M rep, n]; places without a row hold another row's."""
        _, K, rep, n = x.shape
        grouped = x.view(-1, self._most, K, rep, n) if self._full else x[self._table]
        return grouped.transpose(1, 2).reshape(-1, self._most * rep, n)

    def _by_row(self, x: torch.Tensor, K: int) -> torch.Tensor:
        """The way back, [P' K, M rep, n] -> [R, K, rep, n]."""
        _, wide, n = x.shape
        grouped = x.reshape(-1, K, self._most, wide // self._most, n).transpose(1, 2).flatten(0, 1)
        return grouped if self._full else grouped[self._back]


class Decoding(ByPrompt):
    """The keys and values of R rows that are being sampled, `counts[p]` members of prompt p.

    `attend` is called by the attention function for each layer; `advance` after each token.

    `behind[r]` tokens of row r stand behind its prompt already (decode_more.py fills them in): they end in
    the same column for all rows, the `start`-th, and the columns before a shorter row's first are empty.
    """

    def __init__(
        self,
        prompt_ids: Sequence[Sequence[int]],
        counts: Sequence[int],
        prefill: KeysAndValues,
        room: int,
        behind: Sequence[int] = (),
    ) -> None:
        self.lengths = [len(p) for p in prompt_ids]
        R = sum(counts)
        some = next(iter(prefill.values()))[0]
        K, _, D = some.shape
        device = some.device
        longest = max(self.lengths)
        self._even = min(self.lengths) == longest
        # Keys stand with their tokens last: a product of few rows with them is faster by half.
        self._prefix = {
            layer: (self._padded(k).transpose(2, 3).contiguous(), self._padded(v))
            for layer, (k, v) in prefill.items()
        }
        self.behind = torch.tensor(list(behind) or [0] * R, device=device)  # [R]
        self.start = max(behind, default=0)
        self._uneven = min(behind, default=0) < self.start
        room += self.start
        self.own = {
            layer: (
                torch.empty(R, K, room, D, dtype=k.dtype, device=device),
                torch.empty(R, K, room, D, dtype=v.dtype, device=device),
            )
            for layer, (k, v) in prefill.items()
        }
        if self._uneven:  # a weight of 0 times whatever stands in memory may be no number
            for k, v in self.own.values():
                k[:, :, : self.start] = 0
                v[:, :, : self.start] = 0
        prompts = [p for p, count in enumerate(counts) for _ in range(count)]
        self.prompt_of = torch.tensor(prompts, device=device)  # [R]
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
        """Which rows belong to which prompt, and what they look at there."""
        prompts, _ = self._group(self.prompt_of)
        every = len(prompts) == len(self.lengths)
        self._now = {
            layer: (k, v) if every else (k[prompts], v[prompts]) for layer, (k, v) in self._prefix.items()
        }
        # [P', K, D, L] -> [P' K, D, L], [P', K, L, D] -> [P' K, L, D]
        self._now = {layer: (k.flatten(0, 1), v.flatten(0, 1)) for layer, (k, v) in self._now.items()}
        lengths = self.length_of[prompts]
        L = int(self.length_of.max())
        place = torch.arange(L, device=lengths.device)[None]
        self._outside = None if bool((lengths == L).all()) else place >= lengths[:, None]  # [P', L]

    def stay(self, rows: torch.Tensor) -> None:
        """Only these rows (indices, ascending) go on."""
        for layer, (k, v) in self.own.items():
            fresh = []
            for x in (k, v):
                new = torch.empty(len(rows), *x.shape[1:], dtype=x.dtype, device=x.device)
                new[:, :, : self.end] = x[rows, :, : self.end]
                fresh.append(new)
            self.own[layer] = (fresh[0], fresh[1])
        self.prompt_of, self.behind = self.prompt_of[rows], self.behind[rows]
        self._regroup()

    def positions(self) -> torch.Tensor:
        """Of the next token of each row, [1, R]."""
        return (self.length_of[self.prompt_of] + self.behind + self.t)[None]

    @property
    def end(self) -> int:
        """The column of each row's next token."""
        return self.start + self.t

    def kept(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A row's own keys and values, of all layers, [layers, K, n, D] each."""
        first = self.start - int(self.behind[row])
        k = torch.stack([k[row, :, first : self.end] for k, _ in self.own.values()])
        v = torch.stack([v[row, :, first : self.end] for _, v in self.own.values()])
        return k, v

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int,
    ) -> torch.Tensor:
        """[1, H, R, D], [1, K, R, D], [1, K, R, D] -> [1, R, H, D].

        Rows stand by prompt, [P' K, M rep, ...], where they look at it, so that it is read once.
        """
        own_k, own_v = self.own[layer]
        own_k[:, :, self.end] = key[0].transpose(0, 1)
        own_v[:, :, self.end] = value[0].transpose(0, 1)
        (_, H, R, D), K = query.shape, key.shape[1]
        hidden = None
        if self._uneven:
            place = torch.arange(self.end + 1, device=query.device)[None]
            hidden = (place < self.start - self.behind[:, None])[:, None]  # [R, 1, start + t + 1]
        q = query[0].transpose(0, 1).reshape(R, K, H // K, 1, D)
        return self.look(layer, q, self.end + 1, hidden, scale, window).reshape(1, R, H, D)

    def look(
        self,
        layer: int,
        query: torch.Tensor,
        columns: int,
        hidden: torch.Tensor | None,
        scale: float,
        window: int,
    ) -> torch.Tensor:
        """What m tokens of each row see of its prompt and of the first `columns` of its own, the last token
        the last of them, but for those that are `hidden`, [R, m, columns]: [R, K, rep, m, D] -> the same."""
        R, K, rep, m, D = query.shape
        own_k, own_v = (x[:, :, :columns] for x in self.own[layer])
        prefix_k, prefix_v = self._now[layer]
        wide, _, L = prefix_k.shape
        P = wide // K
        early = scale_queries(query.dtype, scale)
        q = (query * scale if early else query).flatten(2, 3)  # [R, K, rep m, D]
        before = torch.bmm(self._by_prompt(q), prefix_k)
        if self._outside is not None:
            before.view(P, -1, L).masked_fill_(self._outside[:, None], float("-inf"))
        own = q @ own_k.transpose(2, 3)  # [R, K, rep m, columns]
        if hidden is not None:
            own.view(R, K, rep, m, columns).masked_fill_(hidden[:, None, None], float("-inf"))
        scores = torch.cat([before, self._by_prompt(own)], dim=-1)  # [P' K, M rep m, L + columns]
        if not early:
            scores = scores.float().mul_(scale)
        if window:
            far = self._far(L, columns, m, window)[self._table][:, None, :, None]
            scores.view(P, K, self._most, rep, m, -1).masked_fill_(far, float("-inf"))
        weights = scores.softmax(-1).to(own_v.dtype)
        inner = torch.bmm(weights[..., :L], prefix_v)
        out = self._by_row(inner, K) + self._by_row(weights[..., L:], K) @ own_v
        return out.reshape(R, K, rep, m, D)

    def _far(self, L: int, columns: int, m: int, window: int) -> torch.Tensor:
        """What lies outside of the window of the last m of each row's tokens, [R, m, L + columns]."""
        device = self.behind.device
        first = self.length_of[self.prompt_of] + self.behind - self.start  # the position of column 0, [R]
        own = first[:, None] + torch.arange(columns, device=device)[None]
        before = torch.arange(L, device=device)[None].expand(len(own), L)
        return own[:, columns - m :, None] - torch.cat([before, own], dim=1)[:, None] >= window


class SharedPrompts:
    """The fast way to sample (`sample.Way`): a prompt is computed once for its members."""

    ahead = 1
    leave = LEAVE

    def __init__(
        self,
        network: DecoderNetwork,
        fast: Fast,
        prompt_ids: Sequence[Sequence[int]],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory | None = None,
    ) -> None:
        self._network, self._fast = network, fast
        self._prompt_ids, self._counts = prompt_ids, counts
        self._sampling, self._memory = sampling, memory
        self._rest = at_rest(network.model)
        self._draw = Drawer(fast, network.compute_dtype, sampling, draws_R_T)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        with self._network.precision(), self._rest:
            yield

    def start(self) -> None:
        hidden, prefill = self._prefill(self._prompt_ids)
        last = torch.tensor([len(p) for p in self._prompt_ids], device=hidden.device).cumsum(0) - 1
        self._hidden = hidden[last]
        self._state: Any = self._decoding(prefill)

    def _decoding(self, prefill: KeysAndValues) -> Any:
        return Decoding(self._prompt_ids, self._counts, prefill, self._sampling.max_tokens)

    def _prefill(self, prompt_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, KeysAndValues]:
        """Last hidden states, [N, hidden], and keys and values, [K, N, D], of prompts one after the other; a
        memory keeps them."""
        device = self._network.device
        row = pack(prompt_ids, [[] for _ in prompt_ids])
        found: KeysAndValues = {}
        layout = replace(row.packed, keep=lambda layer, k, v: found.update({layer: (k, v)}))
        hidden = self._fast.hidden(row.ids.to(device), row.positions.to(device), layout)
        if self._memory is not None:
            for ids, block in zip(prompt_ids, row.packed.blocks, strict=True):
                part = slice(block.start, block.end)
                self._memory.keep_prompt(
                    tuple(ids), {n: (k[:, part], v[:, part]) for n, (k, v) in found.items()}
                )
        return hidden, found

    def kept(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A row's keys and values behind its prompt, of all layers, [layers, K, n, D] each."""
        return cast("tuple[torch.Tensor, torch.Tensor]", self._state.kept(place))

    def draw(self, rows: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A token and its log-prob for each row; the first time one hidden state stands for all members."""
        return self._draw(self._hidden, rows, t, self._state.prompt_of if t == 0 else None)

    def stay(self, rows: torch.Tensor) -> None:
        self._state.stay(rows)

    def step(self, token: torch.Tensor) -> None:
        state = self._state
        self._hidden = self._fast.hidden(token[None], state.positions(), state)
        state.t += 1
