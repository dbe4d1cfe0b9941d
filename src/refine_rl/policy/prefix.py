"""Attention over a packed row in which every prompt stands once.

A row of N tokens holds P blocks: a prompt, then the completions (suffixes) that go on from it, each with
explicit positions that continue the prompt's. All layers but attention work on single tokens, so a prompt
is computed once for all its completions, and nothing is padding. Attention is split: a prompt's tokens
look at their prompt, causally; a suffix's tokens look at the whole prompt and, causally, at themselves.
That is what each completion would see alone, so values and gradients are those of the plain forward pass
(PrefixGrouper, arXiv 2506.05433), up to the order of floating-point sums.

It is an attention function of transformers (AttentionInterface), which hands over queries, keys and
values after rotary positions; the layout comes as the keyword `packed`. Architectures that do not pass it
on, or that do something else inside attention (soft caps, sinks, biases), are found by a comparison with
the plain forward pass when a model is loaded, and take the plain path.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from refine_rl.policy.causal import causal_attention
from refine_rl.policy.flash import Layout, able, flash, layout_of
from refine_rl.policy.in_pieces import Piece, in_pieces
from refine_rl.policy.side_by_side import Tables, side_by_side, tables_of
from refine_rl.policy.wide_attention import wide_attention

NAME = "refine_packed"
"""Our attention function's name in transformers' registry."""

STEP = 128
"""Tokens of a prompt that make a piece: more look at more that they do not see, fewer make thin products."""

_HARMLESS = {"position_ids", "cache_position", "use_cache", "is_causal", "output_attentions", "return_dict"}


def _matters(what: Any) -> bool:
    return what is not None and not (isinstance(what, bool | int | float) and not what)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A prompt and its suffixes: where they lie in the packed row.

    `start` is the first token of the prompt, `length` its number of tokens; the G suffixes follow one
    after the other, `suffixes[g]` tokens each (there may be none).
    """

    start: int
    length: int
    suffixes: tuple[int, ...]

    @property
    def end(self) -> int:
        """One past the block's last token."""
        return self.start + self.length + sum(self.suffixes)

    @cached_property
    def widest(self) -> int:
        """C: tokens of the longest suffix."""
        return max(self.suffixes, default=0)

    @cached_property
    def places(self) -> torch.Tensor:
        """Where token c of suffix g lies among the suffixes' tokens, [G, C]; padding points at the first."""
        places = torch.zeros(len(self.suffixes), self.widest, dtype=torch.long)
        start = 0
        for g, n in enumerate(self.suffixes):
            places[g, :n] = torch.arange(start, start + n)
            start += n
        return places

    @cached_property
    def real(self) -> torch.Tensor:
        """Which of `places` are tokens, [G, C]."""
        lengths = torch.tensor(self.suffixes)
        return torch.arange(self.widest)[None] < lengths[:, None]

    @property
    def even(self) -> bool:
        """Whether all suffixes are equally long."""
        return min(self.suffixes) == self.widest


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The layout of a packed row. `keep` gets each layer's keys and values, where somebody wants them."""

    blocks: tuple[Block, ...]
    cache: dict[Any, Any] = field(default_factory=dict)  # index tensors on the device
    keep: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None  # layer, [K, N, D], [K, N, D]

    @property
    def tokens(self) -> int:
        """N: the tokens of the row."""
        return self.blocks[-1].end if self.blocks else 0

    def tables(self, device: torch.device) -> Tables | None:
        """For attention on all blocks at once (side_by_side.py), made once; None where it does not pay."""
        if "tables" not in self.cache:
            lengths, suffixes = [b.length for b in self.blocks], [b.suffixes for b in self.blocks]
            self.cache["tables"] = tables_of(lengths, suffixes, device)
        found: Tables | None = self.cache["tables"]
        return found

    def pieces(self, window: int) -> list[Piece]:
        """For attention on a processor (in_pieces.py): a prompt's tokens in steps, then its suffixes."""
        found, none = [], torch.empty(0, dtype=torch.bool)
        for block in self.blocks:
            behind = block.start + block.length
            for start in range(block.start, behind, STEP):
                first = max(block.start, start - window + 1) if window else block.start
                end = min(start + STEP, behind)
                found.append(Piece(start, end, first, start, 1, none, none))
            if block.end > behind:
                where = (none, none) if block.even else (block.places, block.real)
                found.append(Piece(behind, block.end, block.start, behind, len(block.suffixes), *where))
        return found

    def layout(self, device: torch.device) -> Layout:
        """For flash attention (flash.py), made once."""
        if "layout" not in self.cache:
            lengths, suffixes = [b.length for b in self.blocks], [b.suffixes for b in self.blocks]
            self.cache["layout"] = layout_of(lengths, suffixes, device)
        found: Layout = self.cache["layout"]
        return found


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """A row ready for the model: ids and positions [1, N], and its layout."""

    ids: torch.Tensor
    positions: torch.Tensor
    packed: Any  # a Packed, or another layout with an `attend` of its own

    def to(self, device: torch.device) -> PackedRow:
        return replace(self, ids=self.ids.to(device), positions=self.positions.to(device))


def pack(prompts: Sequence[Sequence[int]], suffixes: Sequence[Sequence[Sequence[int]]]) -> PackedRow:
    """One row of all prompts and all their suffixes.

    >>> row = pack([[7, 8]], [[[1], [2, 3]]])
    >>> row.ids.tolist(), row.positions.tolist()
    ([[7, 8, 1, 2, 3]], [[0, 1, 2, 2, 3]])
    """
    ids: list[int] = []
    positions: list[int] = []
    blocks = []
    for prompt, members in zip(prompts, suffixes, strict=True):
        blocks.append(Block(start=len(ids), length=len(prompt), suffixes=tuple(map(len, members))))
        ids += prompt
        positions += range(len(prompt))
        for member in members:
            ids += member
            positions += range(len(prompt), len(prompt) + len(member))
    return PackedRow(
        ids=torch.tensor([ids], dtype=torch.long),
        positions=torch.tensor([positions], dtype=torch.long),
        packed=Packed(blocks=tuple(blocks)),
    )


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packed: Any = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]."""
    if packed is None:
        raise NotImplementedError("the packed layout does not reach its attention")
    # Soft caps, sinks, biases, dropout: in bfloat16 their absence would hide in the rounding.
    strange = [name for name, what in others.items() if name not in _HARMLESS and _matters(what)]
    if strange or attention_mask is not None:
        raise NotImplementedError(f"its attention has {', '.join(strange) or 'a mask of its own'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attended(packed, module.layer_idx, query, key, value, scale, sliding_window or 0), None


def attended(
    layout: Any,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Attention in a layout, a `Packed` or a sampler's own: [1, H, N, D], [1, K, N, D] -> [1, N, H, D]."""
    if not isinstance(layout, Packed):
        found: torch.Tensor = layout.attend(layer, query, key, value, scale, window)
        return found
    if layout.keep is not None:
        layout.keep(layer, key[0], value[0])
    return _blocks(query[0], key[0], value[0], layout, scale, window)


def _blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, scale: float, window: int
) -> torch.Tensor:
    """[H, N, D], [K, N, D], [K, N, D] -> [1, N, H, D]."""
    if able(q, v):
        layout = packed.layout(q.device)
        if not 0 < window < layout.widest:
            return flash(q, k, v, layout, scale=scale)[None]
    if q.device.type != "cpu" and (tables := packed.tables(q.device)):
        return side_by_side(q, k, v, tables, scale=scale, window=window).transpose(0, 1)[None]
    if q.device.type == "cpu":
        return in_pieces(q, k, v, packed.pieces(window), scale=scale, window=window)[None]
    parts = []
    for block in packed.blocks:
        a, b, c = block.start, block.start + block.length, block.end
        parts.append(_prompt(q[:, a:b], k[:, a:b], v[:, a:b], scale, window))
        if c > b:
            inner = (q[:, b:c], k[:, b:c], v[:, b:c], k[:, a:b], v[:, a:b])
            parts.append(_suffixes(*inner, block, packed, scale, window))
    return torch.cat(parts, dim=1).transpose(0, 1)[None]


def _prompt(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    """Causal attention of a prompt's tokens among themselves, [H, L, D]."""
    return causal_attention(q[None], k[None], v[None], scale=scale, window=window)[0]


def _suffixes(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    block: Block,
    packed: Packed,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Attention of the suffixes' S tokens to their prompt and themselves: q [H, S, D] -> [H, S, D]."""
    H, _, D = q.shape
    K, G, C = len(k), len(block.suffixes), block.widest

    def spread(x: torch.Tensor) -> torch.Tensor:  # [heads, S, D] -> [heads, G, C, D]
        if block.even:
            return x.reshape(x.shape[0], G, C, D)
        places = packed.cache.setdefault((block.start, "places"), block.places.to(x.device))
        return x[:, places]

    # Query heads that share a key head stand together: [K, G, rep, C, D].
    q_K_G_R_C = spread(q).view(K, H // K, G, C, D).transpose(1, 2)
    # Under autocast rotary positions may leave queries and keys in a wider format than the values.
    q_K_G_R_C, prefix_k = q_K_G_R_C.to(v.dtype), prefix_k.to(v.dtype)
    own_k, own_v = spread(k).to(v.dtype), spread(v)
    out = wide_attention(q_K_G_R_C, own_k, own_v, prefix_k, prefix_v, scale=scale, window=window)
    out = out.transpose(1, 2).reshape(H, G, C, D)
    if block.even:
        return out.reshape(H, G * C, D)
    return out[:, packed.cache.setdefault((block.start, "real"), block.real.to(q.device))]


_LOCK = threading.Lock()
_INSIDE: dict[int, tuple[int, str]] = {}
"""Of a config's id: how many threads are inside, and what it said before the first came."""


@contextlib.contextmanager
def packed_mode(configs: Sequence[Any]) -> Iterator[None]:
    """Inside, the modules that read these configs use our attention function and build no masks. Several
    threads may be inside at once."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    with _LOCK:
        for config in configs:
            count, before = _INSIDE.get(id(config), (0, config._attn_implementation_internal))
            _INSIDE[id(config)] = (count + 1, before)
            config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        with _LOCK:
            for config in configs:
                count, before = _INSIDE.pop(id(config))
                if count > 1:
                    _INSIDE[id(config)] = (count - 1, before)
                else:
                    config._attn_implementation_internal = before


def attention_configs(model: Any) -> list[Any]:
    """The configs that the model's modules read, each once."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return list({id(c): c for c in configs if hasattr(c, "_attn_implementation_internal")}.values())
