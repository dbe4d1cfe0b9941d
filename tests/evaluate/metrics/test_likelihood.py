"""Losses of references: batches of any size, in the prompts' order; what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import make
from refine_rl.evaluate.metrics import likelihood
from refine_rl.evaluate.metrics.likelihood import reference_losses
from refine_rl.evaluate.metrics.outcomes import perplexities
from refine_rl.policy.tokens import TokenBatch


class Counting:
    """A speaker whose words are single letters, each with a log-prob of its own: -1 for a, -2 for b ..."""

    context_length = 8

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, messages: Sequence[Any]) -> tuple[int, ...]:
        return tuple(range(len(messages[-1]["content"])))

    def encode_words(self, text: str) -> tuple[int, ...]:
        return tuple(ord(letter) - 96 for letter in text)

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> torch.Tensor:
        assert temperature == 1.0
        self.shapes.append(tuple(batch.ids.shape))
        return -batch.ids.float() * batch.trainable


@pytest.mark.parametrize("tokens", [1, 16, 4096])
def test_losses_are_sums_over_the_references_words(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "TOKENS", tokens)
    prompts = [make.prompt(n, "x" * length) for n, length in enumerate([3, 1, 6, 8])]
    speaker = Counting()
    found = reference_losses(speaker, prompts, ["abc", "b", "abcd", "a"], lambda: None)  # type: ignore[arg-type]
    # The third is cut after 2 of its 4 words, the fourth has no room for any.
    assert found == [(6.0, 3), (2.0, 1), (3.0, 2), None]
    assert len(speaker.shapes) == {1: 3, 16: 2, 4096: 1}[tokens]
    scale = perplexities({"base": found}, "how")["base"]
    assert scale.rows[:3].tolist() == [[6.0, 3.0], [2.0, 1.0], [3.0, 2.0]]
    assert np.isnan(scale.rows[3]).all()
