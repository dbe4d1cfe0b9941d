"""Sampling that goes on: what stands of a member, apart from its prompt, is its own.

Keys and values that a memory kept are put in their places; then all tokens that are new, of all members, go
through the model as one packed row, and sampling goes on as in decode.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from refine_rl.policy.attention import scale_queries
from refine_rl.policy.decode import Decoding, SharedPrompts
from refine_rl.policy.decode_look import look
from refine_rl.policy.draw import Sampling
from refine_rl.policy.fast import Fast
from refine_rl.policy.memory import KeysAndValues, Memory
from refine_rl.policy.protocol import Begun, DecoderNetwork

SCORES = 1 << 24
"""Attention scores that stand in memory at once (64 MiB in float32), where new tokens are read."""


class _New:
    """The layout of a packed row of the rows' new tokens, `counts[r]` of row r, which attention (prefix.py)
    asks to attend. They take the last of the columns before `state.end`."""

    def __init__(self, state: Decoding, counts: Sequence[int]) -> None:
        self._state = state
        device = state.behind.device
        widest = max(counts)
        self._rows = torch.tensor([r for r, n in enumerate(counts) for _ in range(n)], device=device)
        self._places = torch.tensor([p for n in counts for p in range(widest - n, widest)], device=device)
        self._columns = self._places + state.end - widest
        self._widest = widest
        self.positions = state.length_of[state.prompt_of][self._rows] + state.behind[self._rows]
        self.positions = (self.positions + self._columns - state.end)[None]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int
    ) -> torch.Tensor:
        """[1, H, N, D], [1, K, N, D], [1, K, N, D] -> [1, N, H, D]."""
        state, rows = self._state, self._rows
        (_, H, _, D), K, R, wide = q.shape, k.shape[1], len(state.behind), self._widest
        number = state.number[layer]
        own_k, own_v = state.own[number]
        own_k[rows, :, :, self._columns] = k[0].transpose(0, 1).to(own_k.dtype)
        own_v[rows, :, self._columns] = v[0].transpose(0, 1).to(own_v.dtype)
        # What stands in front of a shorter row's new tokens asks too, and nobody hears the answer.
        padded = q.new_zeros(R, wide, H, D)
        padded[rows, self._places] = q[0].transpose(0, 1)
        padded = padded.view(R, wide, K, H // K, D).permute(0, 2, 3, 1, 4)  # [R, K, rep, wide, D]
        out = torch.empty_like(padded, dtype=v.dtype)
        step = max(1, SCORES // (R * H * (int(state.length_of.max()) + state.end)))
        for first in range(0, wide, step):
            last = min(first + step, wide)
            columns = state.end - wide + last
            there = torch.arange(columns, device=q.device)
            later = there[None] > there[columns - (last - first) :, None]
            early = scale_queries(q.dtype, scale)
            asked = padded[:, :, :, first:last]
            found = look(state.rows, number, asked, columns, later, columns - 1, scale, early, window)
            out[:, :, :, first:last] = found
        return out.permute(0, 3, 1, 2, 4).reshape(R, wide, H, D)[rows, self._places][None]


class GoingOn(SharedPrompts):
    """The fast way to go on (`protocol.Way`): behind its prompt each member has its own keys and values."""

    def __init__(
        self,
        network: DecoderNetwork,
        fast: Fast,
        begun: Sequence[Begun],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory,
    ) -> None:
        of = [(ids, len(list(some))) for ids, some in groupby(b.segments[0].token_ids for b in begun)]
        super().__init__(network, fast, [p for p, _ in of], [n for _, n in of], sampling, draws_R_T, memory)
        self._begun = begun

    def start(self) -> None:
        memory, device = self._memory, self._network.device
        assert memory is not None
        prefill = self._all_prompts(memory)
        behind = [b.token_ids[len(b.segments[0].token_ids) :] for b in self._begun]
        lengths, room = list(map(len, behind)), self._sampling.max_tokens
        self._state = Decoding(self._prompt_ids, self._counts, prefill, room, lengths)
        fresh = []
        for row, (begun, ids) in enumerate(zip(self._begun, behind, strict=True)):
            own = memory.take(begun)
            known = len(own.token_ids) if own else 0
            memory.again += 0 if own else max(0, len(ids) - len(begun.segments[-1].token_ids) - 1)
            fresh.append(ids[known:])
            if own:
                first = self._state.start - len(ids)
                places = slice(first, first + known)
                for (k, v), old_k, old_v in zip(self._state.own, own.keys, own.values, strict=True):
                    k[row, :, :, places] = old_k.transpose(1, 2)
                    v[row, :, places] = old_v
        layout = _New(self._state, list(map(len, fresh)))
        ids_N = torch.tensor([[i for new in fresh for i in new]], device=device)
        hidden = self._through(ids_N, layout.positions, layout)
        last = torch.tensor(list(map(len, fresh)), device=device).cumsum(0) - 1
        self._hidden = hidden[last]

    @property
    def _longest(self) -> int:
        return max(len(b.token_ids) for b in self._begun) + self._sampling.max_tokens

    def _all_prompts(self, memory: Memory) -> KeysAndValues:
        """All prompts' keys and values, one behind the other; those that are not kept are computed."""
        every = list(map(tuple, self._prompt_ids))
        kept = {ids: found for ids in every if (found := memory.prompt(ids)) is not None}
        if missing := [ids for ids in dict.fromkeys(every) if ids not in kept]:
            memory.again += sum(map(len, missing))
            found, start = self._prefill(missing)[1], 0
            for ids in missing:
                part = slice(start, start + len(ids))
                kept[ids] = {layer: (k[:, part], v[:, part]) for layer, (k, v) in found.items()}
                start += len(ids)
        layers = kept[every[0]]
        return {layer: (_behind(0, layer, every, kept), _behind(1, layer, every, kept)) for layer in layers}


def _behind(
    which: int,
    layer: int,
    every: Sequence[tuple[int, ...]],
    kept: dict[tuple[int, ...], KeysAndValues],
) -> torch.Tensor:
    """The keys or the values of all these prompts, one behind the other, [K, N, D]."""
    return torch.cat([kept[ids][layer][which] for ids in every], dim=1)
