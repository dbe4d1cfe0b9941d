"""How likely a model finds the references: the loss of each, for a perplexity.

A perplexity here is exp of the mean negative natural-log probability a token, over all tokens of all
references: not the mean of the prompts' perplexities, and no power of 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from refine_rl.errors import UserError
from refine_rl.policy.control import ControlTextError
from refine_rl.policy.protocol import Speaker
from refine_rl.policy.tokens import token_batch
from refine_rl.progress import Pause, never
from refine_rl.types import Message, Prompt, Trajectory

TOKENS = 4096  # of a batch, padding included

Loss = tuple[float, int]
"""Nats over a reference's tokens, and their number."""


def reference_losses(
    speaker: Speaker, prompts: Sequence[Prompt], references: Sequence[str], pause: Pause = never
) -> list[Loss | None]:
    """The loss of each reference as an answer to its prompt, at temperature 1, the token that ends it
    included: what supervised fine-tuning on these pairs would lower. What goes beyond the model's context is
    left out; None where nothing of a reference fits, or the tokenizer cannot encode it as text. Raises
    UserError where the model's form of a chat cannot hold it."""
    rows = [_as_answer(speaker, p, text) for p, text in zip(prompts, references, strict=True)]
    found: list[Loss | None] = [None] * len(rows)
    lengths = [0 if row is None else sum(len(s.token_ids) for s in row.segments) for row in rows]
    had = [place for place, row in enumerate(rows) if row is not None]
    for places in _batches(sorted(had, key=lambda place: lengths[place]), lengths):
        pause()
        batch = token_batch([row for place in places if (row := rows[place]) is not None])
        with torch.no_grad():
            logprobs = speaker.logprobs(batch, temperature=1.0).double().cpu()  # [B, T]
        for place, own, counted in zip(places, logprobs, batch.trainable.cpu(), strict=True):
            found[place] = (-float(own[counted].sum()), int(counted.sum()))
    return found


def _as_answer(speaker: Speaker, prompt: Prompt, text: str) -> Trajectory | None:
    """The reference in the place of what the model would say."""
    chat: tuple[Message, ...] = (*prompt.messages, {"role": "assistant", "content": text})
    try:
        asked, answer = speaker.demonstrate(chat, every=False)
    except ControlTextError:
        return None
    except UserError as error:
        raise UserError(f'evaluate.metrics: "perplexity", the reference of {prompt.id}: {error}') from error
    room = max(0, speaker.answer_room(len(asked.token_ids)))
    if not answer.token_ids[:room]:
        return None
    return Trajectory(
        prompt_id=prompt.id,
        member=0,
        messages=chat,
        segments=(asked, replace(answer, token_ids=answer.token_ids[:room])),
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
