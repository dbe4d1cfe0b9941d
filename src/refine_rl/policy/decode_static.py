"""Sampling with shared prompts for an accelerator: a step in which nothing moves.

A token of decode.py is some two thousand launches, and asking for them takes longer than doing them. Here
every tensor that a step reads or writes stays where it is, so that the whole step, head and draw included,
can be recorded once and repeated (captured.py). For that the keys and values of what members write stand in a
buffer of fixed size, all of which is looked at: the token that is being computed is in the first slot, those
before it are behind it, from slot `EVEN` on, and the slots that are still empty are masked. The result is
that of decode.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn

from refine_rl.policy.attention import scale_queries
from refine_rl.policy.captured import Captured
from refine_rl.policy.decode import SharedPrompts, group
from refine_rl.policy.decode_look import by_prompt, by_row
from refine_rl.policy.draw import Sampling
from refine_rl.policy.fast import Fast
from refine_rl.policy.memory import KeysAndValues
from refine_rl.policy.protocol import DecoderNetwork

AHEAD = 8
"""Tokens that are drawn before the processor looks at any of them: looking means to wait."""

LOOKED_AT = 256
"""Slots that are looked at in the beginning; twice as many each time they are full."""

EVEN = 8
"""Lengths of what is looked at are multiples of this: of others an accelerator's products are slow."""

why_uncaptured: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models whose step could not be recorded, and why; they sample by decode.py."""


class StaticDecoding:
    """Keys and values of R rows that are being sampled, `counts[p]` members of prompt p (see Decoding)."""

    def __init__(
        self,
        prompt_ids: Sequence[Sequence[int]],
        counts: Sequence[int],
        prefill: KeysAndValues,
        room: int,
    ) -> None:
        device = next(iter(prefill.values()))[0].device
        lengths = [len(p) for p in prompt_ids]
        starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        columns = torch.arange(_even(max(lengths)))
        places = (
            (starts[:, None] + columns).clamp(max=sum(lengths) - 1).to(device)
        )  # [P, L]; others' are masked
        self._prefix = {  # [P, K, D, L] and [P, K, L, D]
            layer: (k[:, places].permute(1, 0, 3, 2).contiguous(), v[:, places].transpose(0, 1).contiguous())
            for layer, (k, v) in prefill.items()
        }
        self._room, self.t = _even(room), 0
        self._length_of = torch.tensor(lengths, device=device)
        self.prompt_of = torch.tensor([p for p, n in enumerate(counts) for _ in range(n)], device=device)
        # Buffers of the same shape are one tensor: what a token leaves is copied once for all layers.
        where: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        for layer, pair in prefill.items():
            for side, x in enumerate(pair):
                where.setdefault((x.dtype, x.shape[0], x.shape[2]), []).append((layer, side))
        R = len(self.prompt_of)
        self._buffers = []
        self._place: dict[tuple[int, int], tuple[int, int]] = {}
        for (dtype, K, D), entries in where.items():
            self._buffers.append(
                torch.zeros(len(entries), R, K, EVEN + self._room, D, dtype=dtype, device=device)  # type: ignore[call-overload]
            )
            self._place |= {entry: (len(self._buffers) - 1, n) for n, entry in enumerate(entries)}
        self._regroup()

    def _regroup(self) -> None:
        """Which rows belong to which prompt, and everything of a fixed place."""
        prompts, counts, self._table, self._back = group(self.prompt_of)
        self._full = len(self._back) == self._table.numel()
        if len(prompts) < len(self._length_of):
            self._prefix = {layer: (k[prompts], v[prompts]) for layer, (k, v) in self._prefix.items()}
            self._length_of = self._length_of[prompts]
            self.prompt_of = torch.repeat_interleave(counts)
        self._base = self._length_of[self.prompt_of]  # [R]
        self._written = torch.zeros((), dtype=torch.long, device=counts.device)
        self._look()

    def _look(self) -> None:
        """As many slots as are needed now, and some to spare."""
        self._slots = LOOKED_AT
        while self._slots < min(self.t + 1, self._room):
            self._slots *= 2
        self._slots = min(self._slots, self._room)
        own = [b[:, :, :, : EVEN + self._slots] for b in self._buffers]
        self._own = {place: own[buffer][n] for place, (buffer, n) in self._place.items()}

    @property
    def outgrown(self) -> bool:
        """Whether what is written no longer fits into the slots that are looked at."""
        return self.t > self._slots

    def stay(self, rows: torch.Tensor) -> None:
        """Only these rows (indices, ascending) go on."""
        self._buffers = [b[:, rows] for b in self._buffers]
        self.prompt_of = self.prompt_of[rows]
        self._regroup()

    def grow(self) -> None:
        """Looks at more slots from here on."""
        self._look()

    def at(self) -> None:
        """Says to what is recorded how many tokens are written."""
        self._written.fill_(self.t)

    def keep(self) -> None:
        """The token of the first slot is written."""
        for buffer in self._buffers:
            buffer[:, :, :, EVEN + self.t] = buffer[:, :, :, 0]
        self.t += 1

    def positions(self) -> torch.Tensor:
        """Of the token of each row, [1, R]. A step begins here."""
        self._masks: dict[int, torch.Tensor] = {}
        return (self._base + self._written)[None]

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
        own_k, own_v = self._own[layer, 0], self._own[layer, 1]
        own_k[:, :, 0] = key[0].transpose(0, 1)
        own_v[:, :, 0] = value[0].transpose(0, 1)
        prefix_k, prefix_v = (x.flatten(0, 1) for x in self._prefix[layer])
        H, R, D = query.shape[1:]
        K, L = key.shape[1], prefix_k.shape[2]
        P, rep = len(prefix_k) // K, H // K
        early = scale_queries(query.dtype, scale)
        q = (query[0] * scale if early else query[0]).transpose(0, 1).reshape(R, K, rep, D)
        before = torch.bmm(by_prompt(q, self._table, self._full), prefix_k)
        own = q @ own_k.transpose(2, 3)  # [R, K, rep, EVEN + slots]
        scores = torch.cat(
            [before, by_prompt(own, self._table, self._full)], dim=-1
        )  # [P' K, M rep, L + EVEN + slots]
        if not early:
            scores = scores.float().mul_(scale)
        scores.view(P, -1, scores.shape[-1]).masked_fill_(self._mask(L, window)[:, None], float("-inf"))
        weights = scores.softmax(-1).to(value.dtype)
        inner = torch.bmm(weights[..., :L], prefix_v)
        there = self._table, self._back, self._full
        out: torch.Tensor = by_row(inner, K, *there) + by_row(weights[..., L:], K, *there) @ own_v
        return out.reshape(1, R, H, D)

    def _mask(self, L: int, window: int) -> torch.Tensor:
        """What the rows of a prompt do not see, [P', L + EVEN + slots]."""
        if window not in self._masks:
            length = self._length_of[:, None]
            before = torch.arange(L, device=length.device)[None].expand(len(length), L)
            own = torch.arange(self._slots, device=length.device)[None].expand(len(length), -1)
            outside, empty = before >= length, own >= self._written
            if window:
                outside = outside | (length + self._written - before >= window)
                empty = empty | (self._written - own >= window)
            between = torch.ones_like(outside[:, : EVEN - 1])
            now = torch.zeros_like(outside[:, :1])
            self._masks[window] = torch.cat([outside, now, between, empty], dim=1)
        return self._masks[window]


def _even(n: int) -> int:
    return -(-n // EVEN) * EVEN


class StaticPrompts(SharedPrompts):
    """`SharedPrompts`, the step and the draw recorded where the device can do that."""

    ahead = AHEAD
    leave = 2  # another number of rows is another record

    def __init__(
        self,
        network: DecoderNetwork,
        fast: Fast,
        prompt_ids: Sequence[Sequence[int]],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
    ) -> None:
        super().__init__(network, fast, prompt_ids, counts, sampling, draws_R_T)
        self._draws_T_R = draws_R_T.T.contiguous()
        self._step: Captured | None = None

    def _decoding(self, prefill: KeysAndValues) -> StaticDecoding:
        return StaticDecoding(self._prompt_ids, self._counts, prefill, self._sampling.max_tokens)

    def draw(self, rows: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last step has drawn; the first time as `SharedPrompts` does."""
        return super().draw(rows, t) if t == 0 else self._drawn

    def stay(self, rows: torch.Tensor) -> None:
        self._static.stay(rows)
        self._draws_T_R = self._draws_T_R[:, rows].contiguous()
        self._step = None

    def step(self, token: torch.Tensor) -> None:
        state = self._static
        if state.outgrown:
            state.grow()
            self._step = None
        if self._step is None:
            self._token = token.clone()
            self._uniform = self._draws_T_R[0].clone()
            self._step = Captured(token.device)
            if why := why_uncaptured.get(self._network.model):
                self._step.why_not = why
        self._token.copy_(token)
        self._uniform.copy_(self._draws_T_R[state.t + 1])
        state.at()
        drawn, logprob = self._step(self._compute)
        if self._step.why_not and token.device.type == "cuda":
            why_uncaptured[self._network.model] = self._step.why_not
        state.keep()
        self._drawn = drawn.clone(), logprob.clone()

    def _compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        with _no_cached_casts():
            hidden = self._through(self._token[None], self._static.positions(), self._static)
            return self._draw.from_uniform(hidden, self._uniform)

    @property
    def _static(self) -> StaticDecoding:
        assert isinstance(self._state, StaticDecoding)
        return self._state


@contextlib.contextmanager
def _no_cached_casts() -> Iterator[None]:
    """Autocast keeps weights that it has rounded until it ends; a record would outlive them."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
