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
from refine_rl.errors import UserError
from refine_rl.evaluate.metrics import likelihood
from refine_rl.evaluate.metrics.likelihood import reference_losses
from refine_rl.evaluate.metrics.outcomes import perplexities
from refine_rl.policy.control import ControlTextError
from refine_rl.policy.load import load_policy
from refine_rl.policy.tokens import TokenBatch
from refine_rl.settings import ModelSettings
from refine_rl.types import Segment


class Counting:
    """A speaker whose words are single letters, each with a log-prob of its own: -1 for a, -2 for b ...; -10
    for the end."""

    context_length = 8

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def demonstrate(self, messages: Sequence[Any], *, every: bool) -> tuple[Segment, ...]:
        asked, text = (m["content"] for m in messages)
        if text == "<end>":
            raise ControlTextError("reads like a control token")
        words = tuple(ord(letter) - 96 for letter in text)
        given = Segment(token_ids=tuple(range(len(asked))), trainable=False)
        return given, Segment(token_ids=(*words, 10), trainable=True, target=True)

    def answer_room(self, prompt: int) -> int:
        return self.context_length - prompt

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> torch.Tensor:
        assert temperature == 1.0
        self.shapes.append(tuple(batch.ids.shape))
        return -batch.ids.float() * batch.trainable


@pytest.mark.parametrize("tokens", [1, 16, 4096])
def test_losses_are_sums_over_the_references_tokens(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "TOKENS", tokens)
    prompts = [make.prompt(n, "x" * length) for n, length in enumerate([3, 1, 6, 8, 9, 2])]
    speaker = Counting()
    references = ["abc", "b", "abcd", "a", "b", "<end>"]
    found = reference_losses(speaker, prompts, references, lambda: None)  # type: ignore[arg-type]
    # The third is cut after 2 of its 4 words, the next two have no room for any, the last is no text.
    assert found == [(16.0, 4), (12.0, 2), (3.0, 2), None, None, None]
    assert len(speaker.shapes) == {1: 3, 16: 2, 4096: 1}[tokens]
    scale = perplexities({"base": found}, "how")["base"]
    assert scale.rows[:3].tolist() == [[16.0, 4.0], [12.0, 2.0], [3.0, 2.0]]
    assert np.isnan(scale.rows[3:]).all()


def test_an_encoder_decoder_finds_a_reference_as_likely_as_sft_does(tmp_path: Path) -> None:
    """Prompt and reference have a limit of their own each (96); each row alone, by the model's own loss."""
    folder = listening_model(tmp_path, "bart")
    policy = load_policy(ModelSettings(name=str(folder), adapter="none", device="cpu", dtype="float32"))
    texts = [("the cat", "the dog"), ("say hello", "hello"), ("the dog " * 12, "the cat"), ("x" * 99, "a")]
    prompts = [make.prompt(n, asked) for n, (asked, _) in enumerate(texts)]
    found = reference_losses(policy, prompts, [answer for _, answer in texts])
    for prompt, (_, answer), loss in zip(prompts[:3], texts[:3], found[:3], strict=True):
        chat = (*prompt.messages, {"role": "assistant", "content": answer})
        asked, said = (s.token_ids for s in policy.demonstrate(chat, every=False))
        with torch.no_grad():
            mean = policy.model(input_ids=torch.tensor([asked]), labels=torch.tensor([said])).loss
        assert loss == (pytest.approx(float(mean) * len(said), rel=1e-5), len(said))
    assert found[3] is None


def test_a_reference_that_a_template_cannot_hold_is_refused() -> None:
    class Thinking(Counting):
        def demonstrate(self, messages: Sequence[Any], *, every: bool) -> tuple[Segment, ...]:
            raise UserError("The template begins every answer with <think>.")

    with pytest.raises(UserError, match=r'"perplexity", the reference of p1: The template begins'):
        reference_losses(Thinking(), [make.prompt(1, "x")], ["a"])  # type: ignore[arg-type]
