"""An adapter's product added into the weights: one ordinary model.

The sum is made in float32 and rounded once. In bfloat16 a weight has 8 bits: a change smaller than half of
its last bit is gone, so what rounding takes of the whole change is measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from refine_rl.policy.fetch import set_untied
from refine_rl.policy.quantised import unquantise

LOSS_WORTH_A_WORD = 0.1
"""Shares of a change that rounding takes, from which on a person is told."""


Rounding = Callable[[torch.Tensor], torch.Tensor]
"""A weight matrix as a number format keeps it."""


@torch.no_grad()
def merge(adapted: Any, dtype: torch.dtype, rounding: Rounding | None = None) -> tuple[Any, float]:
    """The model of a PeftModel (which is used up) with all weights in `dtype`, and the share of the adapter's
    change that rounding took: |change kept - change| / |change|, over all adapted weights, 0 to 1. `rounding`
    is another one than to `dtype`, which somebody else will do later: then its loss is measured.

    A quantised base is unpacked: its weights as the adapter knew them, not those that were packed.
    Tied weights of which one has an adapter are untied: the sum belongs to that one alone.
    """
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    model = adapted.get_base_model()
    main = model.dtype
    unquantise(adapted)
    _untie(model)
    lost = whole = 0.0
    for layer in (m for m in adapted.modules() if isinstance(m, LoraLayer)):
        base, change = layer.get_base_layer(), layer.get_delta_weight("default").float()
        weight = base.weight
        before = weight.float()
        if isinstance(base, Conv1D) and not layer.fan_in_fan_out:  # while it was quantised it was no Conv1D
            change = change.T
        after = (before + change).to(dtype)
        # Of a float32 weight that is stored in bfloat16, the weight's own rounding is no loss of the change.
        stored = rounding or (lambda weight: weight.to(dtype))
        kept = stored(before + change).float() - stored(before).float()
        lost += float((change - kept).double().square().sum())
        whole += float(change.double().square().sum())
        weight.data = after
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        bare = adapted.unload()
    for parameter in bare.parameters():  # not bare.to(dtype): the positions' buffers stay exact
        if parameter.dtype == main:
            parameter.data = parameter.data.to(dtype)
    return bare, math.sqrt(min(lost / whole, 1.0)) if whole else 0.0


def _untie(model: Any) -> None:
    """Gives the head weights of its own, where it shares the embedding's and either has an adapter."""
    from peft.tuners.lora import LoraLayer

    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if words is None or head is None or not isinstance(words, LoraLayer) | isinstance(head, LoraLayer):
        return
    words, head = (m.get_base_layer() if isinstance(m, LoraLayer) else m for m in (words, head))
    if words.weight is not head.weight:
        return
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    set_untied(model)
    model.all_tied_weights_keys = {}
