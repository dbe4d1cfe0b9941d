"""Rotary positions that follow the longest text of a batch, held still.

With `longrope` and `dynamic` scaling, transformers turns positions into angles by one set of frequencies
while every text of a batch is short, and by another once one of them is longer than the model was first
trained for. So the log-probs of a prompt depend on its neighbours, and those of a text change while it grows:
what was sampled one way would be trained another. Here one set holds for all texts of a run, that of the
longest text that the run can have (servers such as vLLM do the same, by the longest text that they accept).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_STILL = "held still"
"""In the place of a rotary module's `rope_type`: transformers then leaves its frequencies alone."""


def moving_kinds(model: nn.Module) -> set[str]:
    """The kinds of scaling in the model that still follow the length of a batch."""
    return {kind for module in _rotary(model) for _, kind in _kinds(module) if _moves(kind)}


def hold_still(model: nn.Module, longest: int) -> bool:
    """Fixes the frequencies at those for a text of `longest` tokens; whether they are other ones than those
    of a short text. It may be called again, for another length."""
    scaled = False
    for module in _rotary(model):
        kinds = module.__dict__.setdefault("_rope_type_of_its_own", module.rope_type)
        module.rope_type = kinds
        for layer_type, kind in _kinds(module):
            if not _moves(kind):
                continue
            layer = {} if layer_type is None else {"layer_type": layer_type}
            prefix = "" if layer_type is None else f"{layer_type}_"
            original = getattr(module, f"{prefix}original_inv_freq")
            # Its own forward pass chooses them, by the largest position that it sees.
            some = torch.zeros(1, dtype=torch.float32, device=original.device)
            for last in (0, longest - 1):
                module(some, torch.tensor([[last]], device=original.device), **layer)
            found = getattr(module, f"{prefix}inv_freq")
            scaled = scaled or not torch.equal(found, original.to(found.device))
        still = {t: _STILL if _moves(k) else k for t, k in _kinds(module)}
        module.rope_type = still if isinstance(kinds, dict) else still[None]
    return scaled


def _rotary(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(getattr(m, "rope_type", None), str | dict)]


def _kinds(module: Any) -> list[tuple[str | None, str]]:
    """Layer type (None: all layers) and kind of scaling."""
    kinds = module.rope_type
    return list(kinds.items()) if isinstance(kinds, dict) else [(None, kinds)]


def _moves(kind: str) -> bool:
    return kind == "longrope" or "dynamic" in kind
