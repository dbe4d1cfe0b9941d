"""The two sides of the comparison between sampler and trainer, by hand."""

from __future__ import annotations

from typing import Any

import torch

from make import trajectory
from refine_rl.policy.tokens import TokenBatch
from refine_rl.training.check import difference, samplers, trainers
from refine_rl.types import Segment


class Trainer:
    """Gives the token at place t of row b the log-prob -(b + t / 8) / temperature."""

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> torch.Tensor:
        rows, places = batch.ids.shape
        return -(torch.arange(rows)[:, None] + torch.arange(places) / 8.0) / temperature


def test_sampled_tokens_alone_in_their_order() -> None:
    speaker: Any = Trainer()
    turns = (
        Segment(token_ids=(1, 2), trainable=False),
        Segment(token_ids=(3,), trainable=True, logprobs=(-0.5,)),
        Segment(token_ids=(4, 4), trainable=False),
        Segment(token_ids=(5, 6), trainable=True, logprobs=(-1.0, -0.25)),
    )
    said = [trajectory("p1", segments=turns), trajectory("p2", tokens=2, given=(1,), logprob=-2.0)]
    assert trainers(speaker, said, 0.5).tolist() == [-0.5, -1.25, -1.5, -2.25, -2.5]
    assert samplers(said).tolist() == [-0.5, -1.0, -0.25, -2.0, -2.0]
    assert difference(speaker, said, 0.5).tolist() == [0.0, 0.25, 1.25, 0.25, 0.5]
