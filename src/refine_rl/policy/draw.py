"""Drawing tokens: one uniform number decides a token, by inversion of the cumulative distribution.

The sum runs in two levels, blocks of the vocabulary and then the tokens of one block, so that nothing
cumulative is ever as long as a vocabulary. `draw` takes logits; `draw_tiled` takes hidden states and makes
the logits tile by tile, while they are still in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from refine_rl.policy.head import exponentials
from refine_rl.policy.scripted import scripted, unoptimised

BLOCK = 256
"""Tokens whose probabilities are added up at once when one is drawn."""

NONE = 1e-35
"""Beside the likeliest token's 1, the weight of a block of tokens that cannot be drawn is no more than this:
an exponential ends at exp(head.LEAST), 2e-38, also for a logit of minus infinity."""

TILE = 1 << 19
"""Logits that `draw_tiled` makes at once (2 MiB)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to draw. `temperature` 0 takes the most likely token; `max_rows`, and `max_cached` tokens of
    prompts and answers together, bound the batch."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_rows: int = 512
    max_cached: int = 1 << 17

    def whole(self, vocabulary: int) -> bool:
        """Whether tokens are drawn from all of the distribution."""
        return self.temperature > 0 and self.top_p >= 1 and not 0 < self.top_k < vocabulary


def draw(
    logits_R_V: torch.Tensor, uniform_R: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row and its log-prob, [R] each.

    The token is the smallest one whose cumulative probability exceeds the uniform draw, among those
    that top-k and top-p leave.

    >>> logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    >>> [draw(logits, torch.tensor([u]), Sampling(max_tokens=1))[0].item() for u in (0.0, 0.49, 0.51, 0.99)]
    [0, 0, 1, 2]
    """
    if sampling.temperature == 0:
        token = logits_R_V.argmax(-1)
        chosen = logits_R_V.gather(1, token[:, None]).squeeze(1)
        return token, chosen - logits_R_V.logsumexp(-1)
    if sampling.whole(logits_R_V.shape[1]):
        if logits_R_V.device.type == "cpu" and (program := scripted(draw_whole)):
            with unoptimised():
                return program(logits_R_V, uniform_R, sampling.temperature)
        return draw_whole(logits_R_V, uniform_R, sampling.temperature)
    scaled, highest, weights = _weights(logits_R_V, sampling.temperature)
    totals = _in_blocks(weights).sum(-1).to(uniform_R.dtype)  # [R, V / BLOCK]
    probs = _truncate(weights / totals.sum(-1, keepdim=True), sampling)
    return _drawn(scaled, highest, totals, _in_blocks(probs), uniform_R)


def draw_whole(
    logits_R_V: torch.Tensor, uniform_R: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`draw` from the whole distribution."""
    scaled, highest, weights = _weights(logits_R_V, temperature)
    blocks = _in_blocks(weights)
    return _drawn(scaled, highest, blocks.sum(-1).to(uniform_R.dtype), blocks, uniform_R)


def _weights(logits_R_V: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits at the temperature, each row's highest [R, 1], and weights [0, 1], the likeliest token's 1."""
    scaled = logits_R_V if temperature == 1 else logits_R_V / temperature
    highest = scaled.amax(-1, keepdim=True)
    return scaled, highest, exponentials(scaled - highest)


def _drawn(
    scaled: torch.Tensor,
    highest: torch.Tensor,
    totals: torch.Tensor,
    blocks: torch.Tensor,
    uniform_R: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token that these weights, [R, V / BLOCK, BLOCK], make of each draw, and its log-prob; `totals` are
    the sums of the blocks of the whole distribution, [R, V / BLOCK]."""
    width = blocks.shape[2]
    block, rest = _block(blocks.sum(-1).to(uniform_R.dtype), uniform_R)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, width)).squeeze(1)
    token = (block * width + _place(inside, rest)).squeeze(1)
    chosen = (scaled.gather(1, token[:, None]) - highest).squeeze(1)
    return token, chosen - totals.sum(-1).log().to(chosen.dtype)


def draw_tiled(
    logits: Callable[[int, int], torch.Tensor], vocabulary: int, uniform_R: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `draw` from the whole distribution; `logits(start, end)` gives float32 logits [R, end - start] of a
    part of the vocabulary. No more than a tile of them stands in memory; the blocks in which the draws fall
    are made a second time."""
    R = len(uniform_R)
    width = max(BLOCK, TILE // R // BLOCK * BLOCK)
    sums, peaks = [], []
    for start in range(0, vocabulary, width):
        tile = logits(start, min(start + width, vocabulary))
        if temperature != 1:
            tile = tile / temperature
        peak = tile.amax(-1, keepdim=True)
        blocks = _in_blocks(exponentials(tile - peak)).sum(-1)
        sums.append(blocks.to(uniform_R.dtype))
        peaks.append(peak)
    peak_R_n = torch.cat(peaks, dim=1)
    highest = peak_R_n.amax(-1, keepdim=True)
    shrink = torch.exp((peak_R_n - highest).to(uniform_R.dtype))
    totals = torch.cat([s * shrink[:, n : n + 1] for n, s in enumerate(sums)], dim=1)
    block, rest = _block(totals, uniform_R)
    inside = torch.full((R, BLOCK), float("-inf"), dtype=torch.float32, device=uniform_R.device)
    for b in sorted(set(block[:, 0].tolist())):
        rows = (block == b).nonzero()[:, 0]
        own = logits(b * BLOCK, min((b + 1) * BLOCK, vocabulary)) / temperature
        inside[rows, : own.shape[1]] = own[rows]
    place = _place(torch.exp(inside - highest), rest)
    chosen = (inside.gather(1, place) - highest).squeeze(1)
    token = (block * BLOCK + place).squeeze(1)
    return token, chosen - totals.sum(-1).log().to(chosen.dtype)


def _in_blocks(weights_R_V: torch.Tensor, width: int = BLOCK) -> torch.Tensor:
    """[R, V] -> [R, V / BLOCK, BLOCK], filled up with zeros."""
    R, V = weights_R_V.shape
    if V % width == 0:
        return weights_R_V.view(R, -1, width)
    return torch.nn.functional.pad(weights_R_V, [0, -V % width]).view(R, -1, width)


def _truncate(probs: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities [R, V], 0 outside the top-k and outside the smallest set that holds top_p of the rest."""
    V = probs.shape[-1]
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    if 0 < sampling.top_k < V:
        ordered[:, sampling.top_k :] = 0
    if sampling.top_p < 1:
        before = ordered.cumsum(-1) - ordered  # the mass in front of each token
        ordered = ordered.masked_fill(before >= sampling.top_p * ordered.sum(-1, keepdim=True), 0)
    return torch.zeros_like(probs).scatter(1, order, ordered)


def _block(sums: torch.Tensor, uniform_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The block in which each draw falls, [R, 1], and how far into it, [R, 1]."""
    cumulative = sums.cumsum(-1)
    target = (uniform_R * cumulative[:, -1])[:, None]
    block = _first_beyond(cumulative, target, sums)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    return block, target - before


def _place(inside: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The place of the draw among a block's weights, [R, BLOCK] -> [R, 1]."""
    return _first_beyond(inside.to(rest.dtype).cumsum(-1), rest, inside)


def _first_beyond(
    cumulative: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, none: float = NONE
) -> torch.Tensor:
    """The first entry whose cumulative weight exceeds the target, [R, 1]. Rounding may put the target on the
    very end, behind the last entry that has any weight."""
    place = torch.searchsorted(cumulative, target, right=True)
    n = weights.shape[-1]
    last = n - 1 - (weights > none).flip([-1]).int().argmax(-1, keepdim=True)
    return torch.minimum(place, last)
