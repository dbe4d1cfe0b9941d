"""Sampling with shared prompts: a prompt's keys and values stand once for all its members.

All prompts are prefilled as one packed row (prefix.py); then every step is one packed row of one token for
each member that still writes. Keys and values of what members write lie in a buffer made beforehand;
members that have stopped leave it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch

from refine_rl.policy.attention import scale_queries
from refine_rl.policy.decode_lanes import Lanes
from refine_rl.policy.decode_look import Rows, attend
from refine_rl.policy.draw import Sampling
from refine_rl.policy.drawer import Drawer
from refine_rl.policy.fast import Fast
from refine_rl.policy.fused import Fused, agreed, compare, fused
from refine_rl.policy.lora import at_rest
from refine_rl.policy.memory import KeysAndValues, Memory
from refine_rl.policy.prefix import pack
from refine_rl.policy.protocol import LEAVE, DecoderNetwork

BLOCK = 64
"""Columns by which the room for what members write grows: nobody knows how long they will be."""


def group(prompt_of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of R rows, whose row each is, [R] ascending: the prompts that have rows, and how many, [P] each; each
    prompt's rows, [P, M], M the most of one (places without a row hold another row's); and each row's place
    in that table, [R]."""
    prompts, counts = torch.unique_consecutive(prompt_of, return_counts=True)
    start = counts.cumsum(0) - counts
    place = torch.arange(int(counts.max()), device=counts.device)[None]
    table = (start[:, None] + place).clamp(max=len(prompt_of) - 1)
    return prompts, counts, table, (place < counts[:, None]).flatten().nonzero()[:, 0]


class Decoding:
    """The keys and values of R rows that are being sampled, `counts[p]` members of prompt p.

    `attend` is called by the attention function for each layer, after `positions` has begun a step; `part` is
    for who computes the layers himself.

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
        # Under autocast rotary positions may leave keys in a wider format than the values.
        prefill = {layer: (k.to(v.dtype), v) for layer, (k, v) in prefill.items()}
        some = next(iter(prefill.values()))[0]
        self._device, self.number = some.device, {layer: n for n, layer in enumerate(prefill)}
        # In bfloat16 a product with a part of a buffer is slower than one with all of it.
        self.whole = some.dtype != torch.float32
        # Keys stand with their tokens last: a product of few rows with them is faster by half.
        self._prefix = [
            (self._padded(k).transpose(2, 3).contiguous(), self._padded(v)) for k, v in prefill.values()
        ]
        self.behind = torch.tensor(list(behind) or [0] * R, device=self._device)  # [R]
        self.start = max(behind, default=0)
        self._uneven = min(behind, default=0) < self.start
        self._room = self.start + room
        self.own = [
            (k.new_zeros(R, len(k), k.shape[2], self._first), v.new_zeros(R, len(v), self._first, v.shape[2]))
            for k, v in prefill.values()
        ]
        prompts = [p for p, count in enumerate(counts) for _ in range(count)]
        self.prompt_of = torch.tensor(prompts, device=self._device)  # [R]
        self.length_of = torch.tensor(self.lengths, device=self._device)  # [P]
        self.t = 0
        self.moved = 0  # how often anything has changed its place
        self._regroup()

    @property
    def _first(self) -> int:
        return min(self._room, self.start + BLOCK)

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        """[K, N, D] of all prompts -> [P, K, L, D]."""
        K, _, D = x.shape
        P, longest = len(self.lengths), max(self.lengths)
        if min(self.lengths) == longest:
            return x.view(K, P, longest, D).transpose(0, 1).contiguous()
        out = x.new_zeros(P, K, longest, D)
        start = 0
        for p, n in enumerate(self.lengths):
            out[p, :, :n] = x[:, start : start + n]
            start += n
        return out

    def _regroup(self) -> None:
        """Which prompts have rows, and what all rows look at."""
        self._prompts = torch.unique_consecutive(self.prompt_of)
        every = len(self._prompts) == len(self.lengths)
        self._now = self._prefix if every else [(k[self._prompts], v[self._prompts]) for k, v in self._prefix]
        self._look()

    def _look(self) -> None:
        self.moved += 1
        self.rows = self.part(0, len(self.prompt_of))

    def part(self, a: int, b: int) -> Rows:
        """What rows a to b look at, with places for what they write."""
        prompts, _, table, back = group(self.prompt_of[a:b])
        first = int(torch.searchsorted(self._prompts, prompts[0]))
        some = slice(first, first + len(prompts))
        lengths, L = self.length_of[prompts], max(self.lengths)
        outside = torch.arange(L, device=self._device)[None] >= lengths[:, None]
        nothing = torch.empty(0, device=self._device)
        behind = self.behind[a:b]
        return Rows(
            prefix_k=[k[some].flatten(0, 1) for k, _ in self._now],
            prefix_v=[v[some].flatten(0, 1) for _, v in self._now],
            own_k=[k[a:b] for k, _ in self.own],
            own_v=[v[a:b] for _, v in self.own],
            table=table,
            back=back,
            full=len(back) == table.numel(),
            outside=outside if min(self.lengths) < L else nothing,
            empty=self.start - behind if self._uneven else nothing,
            first=self.length_of[self.prompt_of[a:b]] + behind - self.start,
        )

    def stay(self, rows: torch.Tensor) -> None:
        """Only these rows (indices, ascending) go on."""
        self.own = [(k[rows], v[rows]) for k, v in self.own]
        self.prompt_of, self.behind = self.prompt_of[rows], self.behind[rows]
        self._regroup()

    def positions(self) -> torch.Tensor:
        """Of the next token of each row, [1, R]. A step begins here."""
        room = self.own[0][0].shape[3]
        if self.end >= room:
            more = min(self._room, room + max(BLOCK, room // 4)) - room
            pad = torch.nn.functional.pad
            self.own = [(pad(k, (0, more)), pad(v, (0, 0, 0, more))) for k, v in self.own]
            self._look()
        return (self.length_of[self.prompt_of] + self.behind + self.t)[None]

    @property
    def end(self) -> int:
        """The column of each row's next token."""
        return self.start + self.t

    def kept(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A row's own keys and values, of all layers, [layers, K, n, D] each."""
        first = self.start - int(self.behind[row])
        k = torch.stack([k[row, :, :, first : self.end].transpose(1, 2) for k, _ in self.own])
        v = torch.stack([v[row, :, first : self.end] for _, v in self.own])
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
        """[1, H, R, D], [1, K, R, D], [1, K, R, D] -> [1, R, H, D]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return attend(
            self.rows,
            self.number[layer],
            q,
            k,
            v,
            self.end,
            self.whole,
            scale,
            scale_queries(query.dtype, scale),
            window,
        )[None]


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
        self._spread: torch.Tensor | None = None  # whose hidden state each row's first token is drawn from
        self._fused: Fused | Literal[False] | None = None  # nobody has asked yet
        self._lanes: Lanes | None = None

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        with self._network.precision(), self._rest, contextlib.ExitStack() as self._inside:
            if self._lanes:
                self._inside.enter_context(self._lanes.inside())
            yield

    def start(self) -> None:
        hidden, prefill = self._prefill(self._prompt_ids)
        last = torch.tensor([len(p) for p in self._prompt_ids], device=hidden.device).cumsum(0) - 1
        self._hidden = hidden[last]
        self._state: Any = self._decoding(prefill)
        self._spread = self._state.prompt_of

    def _decoding(self, prefill: KeysAndValues) -> Any:
        return Decoding(self._prompt_ids, self._counts, prefill, self._sampling.max_tokens)

    def _through(self, ids: torch.Tensor, positions: torch.Tensor, layout: Any) -> torch.Tensor:
        """Last hidden states [N, hidden] of tokens [1, N]: through fused layers, if they agree with those of
        the body's own, which is seen the first time."""
        body, dtype = self._fast.body, self._network.compute_dtype
        if self._fused is None:
            self._fused = fused(body, dtype) or False
            self._angles = self._fused.angles(self._longest) if self._fused else ()
        if not self._fused:
            return self._fast.hidden(ids, positions, layout)
        found = self._fused.hidden(ids[0], [angle[positions[0]] for angle in self._angles], layout)
        if not agreed(body):
            want = self._fast.hidden(ids, positions, layout)
            if not compare(body, found, want, dtype):
                self._fused = False
                return want
            # Of what was kept on the way, keys and values, the last are those of the body's own modules.
            return self._through(ids, positions, layout)
        return found

    @property
    def _longest(self) -> int:
        """No row has more tokens."""
        return max(map(len, self._prompt_ids)) + self._sampling.max_tokens

    def _prefill(self, prompt_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, KeysAndValues]:
        """Last hidden states, [N, hidden], and keys and values, [K, N, D], of prompts one after the other; a
        memory keeps them."""
        device = self._network.device
        row = pack(prompt_ids, [[] for _ in prompt_ids])
        found: KeysAndValues = {}
        layout = replace(row.packed, keep=lambda layer, k, v: found.update({layer: (k, v)}))
        hidden = self._through(row.ids.to(device), row.positions.to(device), layout)
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
        """A token and its log-prob for each row."""
        if self._lanes:
            return self._lanes(self._token, self._draw.uniform(rows, t))
        return self._draw(self._hidden, rows, t, self._spread if t == 0 else None)

    def stay(self, rows: torch.Tensor) -> None:
        self._state.stay(rows)

    def step(self, token: torch.Tensor) -> None:
        """Where there are lanes, they do it when they draw."""
        state = self._state
        if self._fused and token.device.type == "cpu":
            if self._lanes is None:
                self._lanes = Lanes(self._fused, self._angles, state, self._draw)
                self._inside.enter_context(self._lanes.inside())
            self._token = token
            return
        self._hidden = self._through(token[None], state.positions(), state)
        state.t += 1
