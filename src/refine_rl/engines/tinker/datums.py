"""Rows of tokens as a service takes them, and what it gives for each of their tokens as a tensor.

A service predicts targets [T - 1] from inputs [T - 1], the same tokens moved by one: what belongs to token t
of a row stands at t - 1 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from refine_rl.engines.tinker.address import sdk
from refine_rl.policy.tokens import TokenBatch


def datums(batch: TokenBatch, old_B_T: torch.Tensor, advantages_B_T: torch.Tensor) -> list[Any]:
    """The rows with the fields of the loss "importance_sampling": for each target an
    old log-prob and an advantage, which are 0 where nothing is trained."""
    types = sdk().types
    made = []
    for row, end in enumerate(batch.lengths):
        ids = batch.ids[row, :end]
        mask = batch.trainable[row, 1:end]
        made.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(ids[:-1].tolist()),
                loss_fn_inputs={
                    "target_tokens": ids[1:].numpy(),
                    "logprobs": (old_B_T[row, 1:end] * mask).float().numpy(),
                    "advantages": (advantages_B_T[row, 1:end] * mask).float().numpy(),
                },
            )
        )
    return made


def logprobs_of(outputs: Sequence[Any], batch: TokenBatch) -> torch.Tensor:
    """The log-probs of the targets, [B, T] float32, 0 where not trainable."""
    found = torch.zeros(batch.ids.shape)
    for row, (output, end) in enumerate(zip(outputs, batch.lengths, strict=True)):
        found[row, 1:end] = torch.from_numpy(output["logprobs"].to_numpy().copy())
    return torch.where(batch.trainable, found, 0.0)
