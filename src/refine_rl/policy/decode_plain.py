"""Sampling with the model's own cache: the plain twin of decode.py, for models without the fast path."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from refine_rl.policy.draw import Sampling, draw
from refine_rl.policy.protocol import DecoderNetwork


class WholeRows:
    """The plain way to sample (`sample.Way`): prompts are padded on the left, and copied for each member."""

    def __init__(
        self,
        network: DecoderNetwork,
        prompt_ids: Sequence[Sequence[int]],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
    ) -> None:
        self._network, self._sampling, self._draws = network, sampling, draws_R_T
        self._prompt_ids, self._counts = prompt_ids, torch.tensor(counts, device=network.device)

    def inside(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # `DecoderNetwork.forward` sets the precision itself

    def start(self) -> None:
        ids, mask, positions = _left_padded(self._prompt_ids, self._network.device)
        out = self._network.forward(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        self._cache = out.past_key_values
        self._cache.batch_repeat_interleave(self._counts)
        self._logits = out.logits[:, -1].repeat_interleave(self._counts, dim=0)  # [R, V]
        self._mask = mask.repeat_interleave(self._counts, dim=0)
        self._position = positions[:, -1:].repeat_interleave(self._counts, dim=0)

    def draw(self, rows: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw(self._logits.float(), self._draws[rows, t], self._sampling)

    def stay(self, rows: torch.Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]

    def kept(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("this way has no memory")

    def step(self, token: torch.Tensor) -> None:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(token), 1)], dim=1)
        self._position = self._position + 1
        out = self._network.forward(
            input_ids=token[:, None],
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._logits = out.logits[:, -1]


def _left_padded(
    prompt_ids: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask and positions [P, T], every prompt ending in the last column."""
    longest = max(map(len, prompt_ids))
    ids = torch.zeros(len(prompt_ids), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompt_ids):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    # Without explicit positions a padded prompt would start counting at its padding.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)
