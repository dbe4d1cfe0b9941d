"""Serial groups: where thoughts are cut, what the members are made of, how they are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import make
from refine_rl.envs.base import How
from refine_rl.envs.early_exit import EarlyExit, cuts, thought_tokens
from refine_rl.envs.play import play
from refine_rl.errors import GuardStop, UserError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import EarlyExitSettings, ModelSettings, Settings
from refine_rl.training.check import difference
from refine_rl.training.grpo.statistics import group_statistics
from refine_rl.types import Prompt, Score, Segment, Trajectory
from taught import rows_of

MakeModel = Callable[..., Path]
PROMPTS = make.prompts("hi", "the dog and the cat and the dog")
EXITS = EarlyExitSettings(ends="so the", forced=" so the", answer_tokens=3)


def settings(**rollout: Any) -> Settings:
    sections = {"rollout": {"group_size": 4, "max_tokens": 12, "temperature": 0.8, **rollout}}
    return Settings.model_validate({"task": "t", **sections})


@pytest.fixture(scope="module")
def policy(make_model: MakeModel) -> Policy:
    return load_policy(ModelSettings(name=str(make_model("llama")), dtype="float32", device="cpu"))


# -- where a thought ends, and where it is cut ---------------------------------------------------


class Letters:
    """Of a policy only the decoding: a token is a piece of text."""

    pieces = ("a", "b ", "x<", "/t>", "42", "</t>")

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[t] for t in tokens)


@pytest.mark.parametrize(
    ("tokens", "stop_reason", "thought"),
    [
        ((0, 1, 5, 4), "stop", 2),
        ((0, 1, 5, 0, 5, 4), "stop", 2),  # the first end counts
        ((0, 1, 2, 3, 4), "stop", 2),  # a token that reaches into the end is no part of the thought
        ((5, 4), "stop", 0),
        ((0, 0, 0, 1), "length", 4),  # cut while it was thinking
        ((0, 0, 0, 1), "stop", 0),  # it never thought
    ],
)
def test_a_thought_is_what_stands_before_its_end(
    tokens: tuple[int, ...], stop_reason: Any, thought: int
) -> None:
    answer = make.trajectory("p", tokens=tokens, stop=stop_reason)
    assert thought_tokens(cast(Policy, Letters()), answer, "</t>") == thought


def test_cuts_are_different_places_inside() -> None:
    drawn = [cuts(9, 4, seed=1, step=step, prompt_id="p") for step in range(200)]
    assert all(list(d) == sorted(set(d)) and len(d) == 4 for d in drawn)
    assert {n for d in drawn for n in d} == set(range(1, 10))
    assert cuts(9, 4, seed=1, step=3, prompt_id="p") == drawn[3]
    others = [cuts(9, 4, seed=2, step=3, prompt_id="p"), cuts(9, 4, seed=1, step=3, prompt_id="q")]
    assert len({drawn[3], drawn[4], *others}) == 4


def test_a_short_thought_is_cut_wherever_it_can_be() -> None:
    assert cuts(3, 7, seed=0, step=1, prompt_id="p") == (1, 2, 3)
    assert cuts(0, 7, seed=0, step=1, prompt_id="p") == ()
    assert cuts(-1, 7, seed=0, step=1, prompt_id="p") == ()


def test_every_place_is_as_likely() -> None:
    drawn = [n for step in range(3000) for n in cuts(6, 2, seed=0, step=step, prompt_id="p")]
    assert [drawn.count(n) for n in range(1, 7)] == pytest.approx([1000] * 6, abs=100)


def world_with(
    policy: Policy,
    exits: EarlyExitSettings,
    step: int,
    max_tokens: int,
    *,
    members: int = 4,
    temperature: float = 1.0,
) -> EarlyExit:
    first = How(
        sampling=Sampling(max_tokens=max_tokens, temperature=temperature),
        purpose=Purpose(seed=0, step=step, name="rollout"),
    )
    return EarlyExit(speaker=policy, members=members, first=first, exits=exits)


def serial_groups(
    policy: Policy,
    prompts: Sequence[Prompt],
    step: int,
    s: Settings,
    exits: EarlyExitSettings,
    told: list[int] | None = None,
) -> list[tuple[Trajectory, ...]]:
    """The groups of a step, in order; `told` gets their places as they come."""
    r = s.rollout
    world = world_with(policy, exits, step, r.max_tokens, members=r.group_size, temperature=r.temperature)
    groups = {}
    for place, group in play(world, prompts):
        groups[place] = group
        if told is not None:
            told.append(place)
    return [groups[place] for place in range(len(prompts))]


# -- groups --------------------------------------------------------------------------------------


def test_a_serial_group(policy: Policy) -> None:
    groups = serial_groups(policy, PROMPTS, 5, settings(), EXITS)
    forced = tuple(policy.tokenizer(" so the", add_special_tokens=False)["input_ids"])
    for prompt, group in zip(PROMPTS, groups, strict=True):
        *exits, whole = group
        assert len(whole.segments) == 2
        assert [t.member for t in group] == list(range(len(group)))
        sampled = whole.segments[1]
        assert len(sampled.token_ids) == 12  # the model of this test does not stop
        kept = [len(t.segments[1].token_ids) for t in exits]
        room = 12 - len(forced) - 3
        assert kept == list(cuts(room, 3, seed=0, step=5, prompt_id=prompt.id))
        assert kept  # or nothing was tested
        for n, early in zip(kept, exits, strict=True):
            asked, thought, end, answer = early.segments
            assert asked == whole.segments[0]
            assert thought == Segment(
                token_ids=sampled.token_ids[:n], trainable=True, logprobs=sampled.logprobs[:n]
            )
            assert end == Segment(token_ids=forced, trainable=False)
            assert answer.trainable
            assert 1 <= len(answer.token_ids) <= 3
            assert early.completion_tokens == n + len(answer.token_ids)
            assert sum(len(s.token_ids) for s in early.segments[1:]) <= 12
            assert " so the" in early.completion
            start = Begun(prompt=prompt, member=early.member, segments=early.segments[:3])
            how = Sampling(max_tokens=3, temperature=0.8)
            purpose = Purpose(seed=0, step=5, name="early_exit")
            ((_, (alone,)),) = policy.speak([[start]], sampling=how, purpose=purpose)
            assert alone.segments[3].token_ids == answer.token_ids


def test_a_group_does_not_depend_on_its_neighbours(policy: Policy) -> None:
    both = serial_groups(policy, PROMPTS, 5, settings(), EXITS)
    alone = serial_groups(policy, PROMPTS[1:], 5, settings(), EXITS)
    assert [[s.token_ids for s in t.segments] for t in both[1]] == [
        [s.token_ids for s in t.segments] for t in alone[0]
    ]


def test_an_answer_without_a_thought_is_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "refine_rl.envs.early_exit.thought_tokens",
        lambda speaker, answer, ends: 0 if answer.prompt_id == PROMPTS[0].id else 3,
    )
    told: list[int] = []
    groups = serial_groups(policy, PROMPTS, 5, settings(), EXITS, told)
    assert [len(g) for g in groups] == [1, 3]  # a thought of three tokens is cut behind one and two
    assert [len(t.segments[1].token_ids) for t in groups[1]] == [1, 2, 12]
    assert groups[0][0].member == 0
    assert told == [0, 1]


def test_a_model_that_never_ends_a_thought_is_found_out(policy: Policy) -> None:
    stops = replace(policy, stop_ids=frozenset(range(policy.model.config.vocab_size)))
    with pytest.raises(GuardStop, match=r"no answer of the model has '</think>' in it") as caught:
        serial_groups(stops, PROMPTS, 1, settings(), EarlyExitSettings(ends="</think>", answer_tokens=1))
    assert "rollout.early_exit.ends" in caught.value.advice


def test_room_for_a_thought(policy: Policy) -> None:
    forced = len(policy.tokenizer(" so the", add_special_tokens=False)["input_ids"])
    world_with(policy, EXITS, 1, forced + 4).fits()
    with pytest.raises(UserError, match=r"rollout.early_exit.answer_tokens = 3\. Raise the first"):
        world_with(policy, EXITS, 1, forced + 3).fits()


# -- training on them ----------------------------------------------------------------------------


def test_the_trainer_sees_what_was_sampled(policy: Policy) -> None:
    """Several trained segments: packed, plain and recorded log-probs are the same."""
    members = [t for g in serial_groups(policy, PROMPTS, 5, settings(), EXITS) for t in g]
    assert difference(policy, members, 0.8).max() < 2e-5
    batch = token_batch(members)
    for row, trajectory in enumerate(members):
        trained = [s.trainable for s in trajectory.segments for _ in s.token_ids]
        assert batch.trainable[row, : len(trained)].tolist() == trained
    with torch.no_grad():
        packed, plain = (f(policy, batch, temperature=0.8) for f in (logprobs, plain_logprobs))
    assert torch.allclose(packed, plain, atol=2e-5)
    assert not packed[~batch.trainable].any()


def test_forced_tokens_weigh_nothing(policy: Policy) -> None:
    group = serial_groups(policy, PROMPTS[:1], 5, settings(), EXITS)[0]
    scores = tuple(Score(value=0.5**m) for m in range(len(group)))
    made = make.group(PROMPTS[0], *scores, step=5, trajectories=group, advantages=(1.0,) * len(group))
    for row, t in zip(rows_of([made], max_tokens=12), group, strict=True):
        own = len(t.segments[1].token_ids) + (len(t.segments[-1].token_ids) if len(t.segments) > 2 else 0)
        assert row.weight == pytest.approx(1 / (len(group) * own))
        assert len(row.old) == own
    assert group_statistics([made])["groups_zero_variance"] == 0


def test_forced_text_without_settings_is_the_end_itself(policy: Policy) -> None:
    group = serial_groups(policy, PROMPTS[:1], 5, settings(), EarlyExitSettings(ends=" cat", answer_tokens=2))
    ends = tuple(policy.tokenizer(" cat", add_special_tokens=False)["input_ids"])
    assert [t.segments[2].token_ids for t in group[0][:-1]] == [ends] * 3
