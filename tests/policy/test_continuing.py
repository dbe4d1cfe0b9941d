"""Going on behind given tokens: held against `sample`, and against whole forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from make import prompts
from refine_rl.envs.play import sample
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.policy.sample import speak
from refine_rl.randomness import uniforms
from refine_rl.settings import ModelSettings
from refine_rl.types import Prompt, Segment, Trajectory

MakeModel = Callable[..., Path]
PURPOSE = Purpose(seed=3, step=7, name="early_exit")
SAMPLING = Sampling(max_tokens=6, temperature=0.8)
PROMPTS = prompts("hi", "the dog and the cat and the dog", "say something")


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "plain"])
def policy(make_model: MakeModel, request: pytest.FixtureRequest) -> Policy:
    settings = ModelSettings(name=str(make_model("llama")), dtype="float32", device="cpu")
    policy = replace(load_policy(settings), use_fast=request.param)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    assert (policy.fast is not None) == request.param
    return policy


def said(ids: tuple[int, ...], logprobs: tuple[float, ...] = ()) -> Segment:
    return Segment(token_ids=ids, trainable=bool(logprobs), logprobs=logprobs)


def begun(policy: Policy, prompt: Prompt, member: int, *behind: Segment) -> Begun:
    return Begun(prompt=prompt, member=member, segments=(said(policy.encode(prompt.messages)), *behind))


def go_on(policy: Policy, begun: Sequence[Begun], **how: Any) -> list[Trajectory]:
    """Each beginning as a group of its own."""
    how = {"sampling": SAMPLING, "purpose": PURPOSE} | how
    found = dict(speak(policy, [[b] for b in begun], **how))
    return [found[place][0] for place in range(len(begun))]


def test_behind_a_bare_prompt_it_is_sampling(policy: Policy) -> None:
    groups = sample(policy, PROMPTS, members=2, sampling=SAMPLING, purpose=PURPOSE)
    found = go_on(policy, [begun(policy, p, m) for p in PROMPTS for m in range(2)])
    for got, wanted in zip(found, [t for group in groups for t in group], strict=True):
        assert [s.token_ids for s in got.segments] == [s.token_ids for s in wanted.segments]
        assert got.segments[1].logprobs == pytest.approx(wanted.segments[1].logprobs, abs=1e-5)
        assert (got.member, got.messages) == (wanted.member, wanted.messages)
        assert (got.prompt_id, got.stop_reason) == (wanted.prompt_id, wanted.stop_reason)


@torch.no_grad()
def test_behind_words_it_is_a_whole_pass_for_every_token(policy: Policy) -> None:
    thought = said(policy.encode_words("the cat"), (-0.5,) * len(policy.encode_words("the cat")))
    forced = said(policy.encode_words(" so"))
    some = [
        begun(policy, PROMPTS[0], 0, thought, forced),
        begun(policy, PROMPTS[0], 1, forced),
        begun(policy, PROMPTS[1], 4, thought, thought, forced),
    ]
    # Two rows at once, so that the third is a batch of its own.
    found = go_on(policy, some, sampling=replace(SAMPLING, max_rows=2))
    for start, trajectory in zip(some, found, strict=True):
        assert trajectory.segments[:-1] == start.segments
        *_, answer = trajectory.segments
        draws = uniforms(
            6, seed=3, step=7, prompt_id=start.prompt.id, member=start.member, purpose="early_exit"
        )
        ids = list(start.token_ids)
        for t, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
            logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double() / 0.8
            scaled = logits.log_softmax(-1)
            assert token == int(np.searchsorted(scaled.exp().cumsum(0).numpy(), draws[t], side="right"))
            assert logprob == pytest.approx(float(scaled[token]), abs=2e-5)
            ids.append(token)
        stopped = answer.token_ids[-1] in policy.stop_ids
        assert trajectory.stop_reason == ("stop" if stopped else "length")
        words = ids[len(start.segments[0].token_ids) : len(ids) - stopped]
        assert trajectory.completion == policy.decode(words)


def test_the_stop_token_is_no_part_of_the_text(policy: Policy) -> None:
    stops = replace(policy, stop_ids=frozenset(range(policy.model.config.vocab_size)))
    words = said(policy.encode_words("the cat"))
    (found,) = go_on(stops, [begun(policy, PROMPTS[0], 0, words)])
    assert (found.stop_reason, found.completion) == ("stop", policy.decode(words.token_ids))
    assert len(found.segments[-1].token_ids) == 1


def test_groups_come_as_they_end_and_members_in_their_order(policy: Policy) -> None:
    """One group starts and one goes on, in one batch; a group of nobody is there at once."""
    words = said(policy.encode_words("the cat"))
    mixed = [
        [begun(policy, PROMPTS[0], m) for m in range(3)],
        [],
        [begun(policy, PROMPTS[1], 2, words), begun(policy, PROMPTS[1], 1), begun(policy, PROMPTS[1], 0)],
    ]
    found = list(speak(policy, mixed, sampling=SAMPLING, purpose=PURPOSE))
    assert found[0] == (1, ())
    groups = dict(found)
    assert [t.member for t in groups[0]] == [0, 1, 2]
    assert [t.member for t in groups[2]] == [2, 1, 0]
    alone = go_on(policy, [b for group in mixed for b in group])
    for got, wanted in zip([*groups[0], *groups[2]], alone, strict=True):
        assert [s.token_ids for s in got.segments] == [s.token_ids for s in wanted.segments]
    assert groups[2][0].segments[1] == words


def test_whoever_leaves_between_two_groups_leaves_the_adapter_as_it_was(policy: Policy) -> None:
    groups = [[begun(policy, p, m) for m in range(2)] for p in PROMPTS]
    batches = speak(policy, groups, sampling=replace(SAMPLING, max_rows=2), purpose=PURPOSE)
    next(batches)
    assert not any(getattr(m, "whole", None) is not None for m in policy.model.modules())
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_nothing_begun(policy: Policy) -> None:
    assert go_on(policy, []) == []
