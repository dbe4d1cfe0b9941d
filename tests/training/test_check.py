"""The two sides of the comparison between sampler and trainer, by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from make import trajectory
from refine_rl.errors import GuardStop
from refine_rl.policy.tokens import TokenBatch
from refine_rl.training import rows
from refine_rl.training.check import Check, difference, first_few, samplers, trainers
from refine_rl.training.rows import Row, micro_batch
from refine_rl.types import Segment, Trajectory


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


class Adapted:
    """Says that each token of a row has -1; with its adapter on, `by` more or less in turn."""

    has_reference = True
    moving = ""

    def __init__(self, by: float) -> None:
        self.by = by

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> torch.Tensor:
        turn = torch.where(torch.arange(batch.ids.shape[1]) % 2 == 0, 1.0, -1.0)
        return (-1.0 + self.by * turn).repeat(len(batch.ids), 1)

    @contextlib.contextmanager
    def reference(self) -> Iterator[Adapted]:
        yield Adapted(0.0)


def said_by(speaker: Adapted, rounding: float) -> list[Trajectory]:
    """Four answers of 20 tokens, with log-probs that are off by chance."""
    draw = torch.Generator().manual_seed(0)
    answers = [trajectory("p1", member=n, tokens=20, given=(1,), logprob=0.0) for n in range(4)]
    exact = trainers(speaker, answers, 1.0)  # type: ignore[arg-type]
    off = (exact + rounding * torch.randn(80, generator=draw)).tolist()
    return [
        replace(
            t, segments=(t.segments[0], replace(t.segments[1], logprobs=tuple(off[20 * n : 20 * n + 20])))
        )
        for n, t in enumerate(answers)
    ]


def test_a_sampler_without_the_adapter_is_seen_within_what_rounding_may_leave() -> None:
    speaker: Any = Adapted(0.01)
    check = Check(speaker=speaker, allowed=0.05)
    untrained, followed = said_by(Adapted(0.0), 0.005), said_by(speaker, 0.005)
    assert float(check.compare(untrained, 2).mean()) < check.limit
    with pytest.raises(
        GuardStop, match=r"Step 2: the rollouts are nearer to the untrained weights \(0\.004"
    ) as stop:
        check.require_followed(untrained, 2)
    assert stop.value.guard == "mismatch"
    check.require_followed(followed, 2)
    # Where the adapter does nothing yet, or less than rounding, nobody can say.
    Check(speaker=Adapted(0.0)).require_followed(untrained, 1)  # type: ignore[arg-type]
    check.require_followed(said_by(Adapted(0.0), 0.5), 2)


def test_a_few_tokens_of_which_one_is_far_off_do_not_stop_a_run() -> None:
    """The mean has to lie beyond the limit by more than chance: one token of 40 with 2 nats is rounding of an
    unlikely token in bfloat16; all tokens with 0.05 are other weights."""
    check = Check(speaker=Adapted(0.0), allowed=0.03)  # type: ignore[arg-type]
    answers = [trajectory("p1", member=n, tokens=10, given=(1,), logprob=-1.0) for n in range(4)]
    one = torch.tensor([2.0] + [0.0] * 39)
    assert float(one.mean()) == pytest.approx(0.05)
    check.require_match(answers, one, 1)
    check.require_match(answers, torch.full((40,), 0.03), 1)
    for wrong in (torch.full((40,), 0.05), torch.full((1,), 0.05), torch.tensor([2.0] + [0.0] * 39) + 0.02):
        wrong = wrong if len(wrong) < 40 or wrong.std() == 0 else wrong.repeat(40)
        with pytest.raises(GuardStop, match=r"Step 3: sampler and trainer disagree by 0\.0[57]00 nats"):
            check.require_match(answers, wrong, 3)


def test_short_answers_are_looked_at_until_there_are_tokens_enough() -> None:
    def few(tokens: int) -> int:
        return len(first_few([trajectory("p1", member=n, tokens=tokens) for n in range(40)]))

    assert [few(1), few(3), few(16), few(200)] == [40, 22, 4, 4]


def test_it_is_looked_at_in_the_first_steps_and_now_and_then() -> None:
    check = Check(speaker=Adapted(0.01))  # type: ignore[arg-type]
    untrained = said_by(Adapted(0.0), 0.005)
    seen = []
    for step in range(1, 25):
        try:
            check.require_followed(untrained, step)
        except GuardStop:
            seen.append(step)
    assert seen == [*range(1, 9), 16, 24]


def test_no_word_of_a_prompt_is_trained_on() -> None:
    answer = trajectory("p1", tokens=3, given=(1, 2), logprob=-1.0)
    row = Row(trajectory=answer, advantage=1.0, weight=1.0)
    assert micro_batch([row], torch.device("cpu")).tokens.trainable.sum() == 3
    honest = rows.token_batch

    def everything(some: Sequence[Trajectory]) -> TokenBatch:
        batch = honest(some)
        return replace(batch, trainable=batch.attention.bool())

    with (
        patch.object(rows, "token_batch", everything),
        pytest.raises(GuardStop, match=r"has 3 tokens .* 5") as stop,
    ):
        micro_batch([row], torch.device("cpu"))
    assert stop.value.guard == "mask"
    # Nor a target beside what was sampled.
    target = Segment(token_ids=(7,), trainable=True, target=True)
    mixed = replace(row, trajectory=replace(answer, segments=(*answer.segments, target)))
    with pytest.raises(GuardStop, match=r"has 3 tokens .* 4"):
        micro_batch([mixed], torch.device("cpu"))
