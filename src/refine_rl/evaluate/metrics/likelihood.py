"""How likely a model finds the references: the loss of each, for a perplexity.

A perplexity here is exp of the mean negative natural-log probability a token, over all tokens of all
references: not the mean of the prompts' perplexities, and no power of 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from refine_rl.policy.protocol import Speaker
from refine_rl.policy.tokens import token_batch
from refine_rl.progress import Pause, never
from refine_rl.types import Prompt, Segment, Trajectory

TOKENS = 4096  # of a batch, padding included

Loss = tuple[float, int]
"""Nats over a reference's tokens, and their number."""


def reference_losses(
    speaker: Speaker, prompts: Sequence[Prompt], references: Sequence[str], pause: Pause = never
) -> list[Loss | None]:
    """The loss of each reference as an answer to its prompt, at temperature 1, without the tokens that begin
    and end every answer. What goes beyond the model's context is left out; None where nothing of a reference
    fits."""
    rows = [_as_answer(speaker, p, text) for p, text in zip(prompts, references, strict=True)]
    found: list[Loss | None] = [None] * len(rows)
    lengths = [sum(len(s.token_ids) for s in row.segments) for row in rows]
    had = [place for place, row in enumerate(rows) if row.segments[-1].token_ids]
    for places in _batches(sorted(had, key=lambda place: lengths[place]), lengths):
        pause()
        batch = token_batch([rows[place] for place in places])
        with torch.no_grad():
            logprobs = speaker.logprobs(batch, temperature=1.0).double().cpu()  # [B, T]
        for place, own, counted in zip(places, logprobs, batch.trainable.cpu(), strict=True):
            found[place] = (-float(own[counted].sum()), int(counted.sum()))
    return found


def _as_answer(speaker: Speaker, prompt: Prompt, text: str) -> Trajectory:
    """The reference in the place of what the model would say; its log-probs are still to be had."""
    asked, first = speaker.encode(prompt.messages), speaker.first_ids
    words = speaker.encode_words(text)[: max(0, speaker.context_length - len(asked) - len(first))]
    return Trajectory(
        prompt_id=prompt.id,
        member=0,
        messages=(*prompt.messages, {"role": "assistant", "content": text}),
        segments=(
            Segment(token_ids=asked, trainable=False),
            Segment(token_ids=first, trainable=False),
            Segment(token_ids=words, trainable=True, logprobs=(0.0,) * len(words)),
        ),
        stop_reason="stop",
    )


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of rising length, as many at a time as TOKENS allow with their padding; one at least.

    >>> list(_batches([2, 0, 1], [2000, 3000, 1000]))
    [[2, 0], [1]]
    """
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * lengths[place] > TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
