"""Tokens drawn from last hidden states."""

from __future__ import annotations

import torch

from refine_rl.policy.draw import TILE, Sampling, draw, draw_tiled
from refine_rl.policy.head import Head


class Drawer:
    """Draws as `sampling` says, row r's t-th token by `draws_R_T[r, t]`. The head is rounded to `dtype`."""

    def __init__(self, head: Head, dtype: torch.dtype, sampling: Sampling, draws_R_T: torch.Tensor) -> None:
        self._head, self._sampling, self._draws = head, sampling, draws_R_T
        self._rounded = head.rounded(dtype)
        self._vocabulary = len(self._rounded[0])
        # An accelerator is slower by many small products; there the logits stand whole.
        whole = draws_R_T.device.type == "cpu" and sampling.whole(self._vocabulary)
        self.tiled = whole and len(draws_R_T) * self._vocabulary > 4 * TILE

    def __call__(
        self, hidden: torch.Tensor, rows: torch.Tensor, t: int, spread: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A token and its log-prob for each of the rows, [R] each. `spread`: which of the hidden states is
        each row's, [R], where one stands for several."""
        return self.from_uniform(hidden, self.uniform(rows, t), spread)

    def uniform(self, rows: torch.Tensor, t: int) -> torch.Tensor:
        """The numbers that decide the t-th token of these rows, [R]."""
        return self._draws[rows, t]

    def from_uniform(
        self, hidden: torch.Tensor, uniform: torch.Tensor, spread: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same by these uniform numbers, [R]."""

        def logits(start: int = 0, end: int | None = None) -> torch.Tensor:
            found = self._head.logits(hidden, self._rounded, start, end)
            return found if spread is None else found[spread]

        if self.tiled:
            return draw_tiled(logits, self._vocabulary, uniform, self._sampling.temperature)
        return draw(logits(), uniform, self._sampling)
