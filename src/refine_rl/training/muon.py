"""Muon for matrices, AdamW for everything else: for training from scratch, in fewer steps than AdamW alone.

Muon (Jordan and others 2024, https://kellerjordan.github.io/posts/muon/) moves a weight matrix along its
gradient with momentum made orthogonal: all directions move alike, the rare ones too. Embeddings, head, norms
and biases are left to AdamW, at the same learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from refine_rl.policy.protocol import Speaker


def muon(speaker: Speaker, *, weight_decay: float = 0.0) -> MuonAndAdamW:
    """Over the trainable parameters, in the order of their names; a learner sets the rate of each step."""
    scales = speaker.matrices()
    named = sorted(speaker.trainable().items())
    return MuonAndAdamW(
        {s: [p for name, p in named if scales.get(name) == s] for s in sorted(set(scales.values()))},
        [p for name, p in named if name not in scales],
        weight_decay=weight_decay,
    )


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers as one: the groups of both, and one state, by parameter. `matrices` are by the `scale`
    of their group, by which a learner multiplies its rate."""

    def __init__(
        self,
        matrices: Mapping[float, list[nn.Parameter]],
        others: list[nn.Parameter],
        *,
        weight_decay: float,
    ) -> None:
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            groups = [{"params": some, "scale": scale} for scale, some in matrices.items()]
            self._parts.append(torch.optim.Muon(groups, weight_decay=weight_decay, momentum=0.95))
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:
            part.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Moves every weight."""
        assert closure is None
        for part in self._parts:
            part.step()
