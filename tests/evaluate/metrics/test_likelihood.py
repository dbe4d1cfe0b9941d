"""Losses of references: batches of any size, in the prompts' order; what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import make
from models import listening_model
from refine_rl.evaluate.metrics import likelihood
from refine_rl.evaluate.metrics.likelihood import reference_losses
from refine_rl.evaluate.metrics.outcomes import perplexities
from refine_rl.policy.load import load_policy
from refine_rl.policy.tokens import TokenBatch
from refine_rl.settings import ModelSettings


class Counting:
    """A speaker whose words are single letters, each with a log-prob of its own: -1 for a, -2 for b ..."""

    context_length = 8
    first_ids: tuple[int, ...] = ()

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


def test_a_reference_stands_behind_the_token_that_begins_every_answer(tmp_path: Path) -> None:
    """BART's decoder writes `<s>` first, and answers to imitate begin with it: without it a reference is
    where no answer ever is."""
    policy = load_policy(
        ModelSettings(name=str(listening_model(tmp_path, "bart")), device="cpu", dtype="float32")
    )
    asked = make.prompt(1, "the cat")
    given = policy.tokenizer("the cat", return_tensors="pt")
    words = list(policy.encode_words("a dog sat"))
    (begins,) = policy.first_ids
    assert policy.tokenizer.decode(begins) == "<s>"
    with torch.no_grad():
        logits = policy.model(
            **given, decoder_input_ids=torch.tensor([[*policy.halves.start, begins, *words[:-1]]])
        ).logits
    wanted = -logits[0, 1:].log_softmax(-1)[torch.arange(len(words)), words].sum().item()
    (found,) = reference_losses(policy, [asked], ["a dog sat"])
    assert found == (pytest.approx(wanted, rel=1e-5), len(words))
