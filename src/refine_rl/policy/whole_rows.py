"""Attention over a packed row of whole rows that share nothing: each looks at itself alone, causally.

Rows stand one after the other, the longest first, with positions of their own, so that all layers but
attention compute no padding. For attention, rows of nearly the same length are padded to the longest of them
and go together: a causal row never looks at the padding behind it, so values and gradients are those of each
row alone, up to the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from refine_rl.policy.causal import causal_attention
from refine_rl.policy.flash import Layout, able, flash, layout_of
from refine_rl.policy.prefix import PackedRow

PADDING = 0.8
"""Rows go together down to this share of the longest one's length."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Neighbours of nearly the same length: the first token of the first, and the lengths."""

    start: int
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def places(self) -> torch.Tensor:
        """Where each token lies among the rows padded to the longest, [tokens]."""
        widest = self.lengths[0]
        return torch.cat([torch.arange(n) + row * widest for row, n in enumerate(self.lengths)])


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The layout of such a packed row, which attention (prefix.py) asks to attend."""

    parts: tuple[_Rows, ...]
    cache: dict[int, torch.Tensor] = field(default_factory=dict)  # places on the device, by part
    layouts: dict[torch.device, Layout] = field(default_factory=dict)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int
    ) -> torch.Tensor:
        """[1, H, N, D], [1, K, N, D], [1, K, N, D] -> [1, N, H, D]."""
        if able(q, v):
            if q.device not in self.layouts:
                lengths = [n for part in self.parts for n in part.lengths]
                self.layouts[q.device] = layout_of(lengths, [()] * len(lengths), q.device)
            layout = self.layouts[q.device]
            if not 0 < window < layout.widest:
                return flash(q[0], k[0], v[0], layout, scale=scale)[None]
        found = [self._part(number, q[0], k[0], v[0], scale, window) for number in range(len(self.parts))]
        return torch.cat(found, dim=1).transpose(0, 1)[None]

    def _part(
        self, number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int
    ) -> torch.Tensor:
        """[heads, N, D] of all rows -> [H, tokens, D] of this part's."""
        part = self.parts[number]
        rows, widest = len(part.lengths), part.lengths[0]
        even = part.tokens == rows * widest
        if not even and number not in self.cache:
            self.cache[number] = part.places.to(q.device)

        def padded(x: torch.Tensor) -> torch.Tensor:  # -> [rows, heads, widest, D]
            own = x[:, part.start : part.start + part.tokens]
            if not even:
                room = own.new_zeros(len(x), rows * widest, x.shape[2])
                own = room.index_copy(1, self.cache[number], own)
            return own.reshape(len(x), rows, widest, x.shape[2]).transpose(0, 1)

        out = causal_attention(padded(q), padded(k), padded(v), scale=scale, window=window)
        out = out.transpose(0, 1).reshape(len(q), rows * widest, out.shape[3])
        return out if even else out.index_select(1, self.cache[number])


def pack_whole(rows: Sequence[Sequence[int]]) -> tuple[PackedRow, torch.Tensor]:
    """One row of all rows, and where the first token of each stands in it, [B]. A row without tokens stands
    nowhere.

    >>> row, starts = pack_whole([[7], [1, 2, 3], [4, 5]])
    >>> row.ids.tolist(), row.positions.tolist(), starts.tolist()
    ([[1, 2, 3, 4, 5, 7]], [[0, 1, 2, 0, 1, 0]], [5, 0, 3])
    """
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    starts, parts = [0] * len(rows), []
    lengths: list[int] = []
    start = end = 0
    for row in order:
        length = len(rows[row])
        if lengths and length < PADDING * lengths[0]:
            parts.append(_Rows(start=start, lengths=tuple(lengths)))
            start, lengths = end, []
        starts[row] = end
        if length:
            lengths.append(length)
        end += length
    if lengths:
        parts.append(_Rows(start=start, lengths=tuple(lengths)))
    ids = [i for row in order for i in rows[row]]
    positions = [place for row in order for place in range(len(rows[row]))]
    packed = PackedRow(
        ids=torch.tensor([ids], dtype=torch.long),
        positions=torch.tensor([positions], dtype=torch.long),
        packed=Whole(parts=tuple(parts)),
    )
    return packed, torch.tensor(starts)
