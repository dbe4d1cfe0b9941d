"""The loop over turns, with a speaker that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from make import prompts
from refine_rl.envs.base import Coming, How, Members, Turn, World, at_once, ended
from refine_rl.envs.build import world_of
from refine_rl.envs.early_exit import EarlyExit
from refine_rl.envs.play import play, sample
from refine_rl.envs.single_turn import SingleTurn
from refine_rl.errors import GuardStop, Interrupted
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.settings import EarlyExitSettings, RolloutSettings
from refine_rl.types import Prompt, Segment
from speaker import Parrot

PROMPTS = prompts("one", "two", "three")
HOW = How(sampling=Sampling(max_tokens=4), purpose=Purpose(seed=0, step=3, name="rollout"))


def world(kind: Callable[..., World], speaker: Any, members: int = 1, **more: Any) -> World:
    return kind(speaker=speaker, members=members, **{"first": HOW, **more})


def test_a_single_turn_is_handed_out_as_it_ends() -> None:
    parrot = Parrot(lambda begun, purpose: (begun.member,), backwards=True)
    found = list(play(SingleTurn(speaker=parrot, members=2, first=HOW), PROMPTS))  # type: ignore[arg-type]
    assert [place for place, _ in found] == [2, 1, 0]
    assert [t.member for t in found[0][1]] == [0, 1]
    assert parrot.asked == [("rollout", 4, [[0, 1]] * 3)]
    groups = sample(parrot, PROMPTS, members=2, sampling=HOW.sampling, purpose=HOW.purpose)  # type: ignore[arg-type]
    assert [g[0].prompt_id for g in groups] == ["p0", "p1", "p2"]
    assert sample(parrot, [], members=2, sampling=HOW.sampling, purpose=HOW.purpose) == []  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Again(SingleTurn):
    """As many turns as the prompt has letters; what the world says is the turn's number."""

    def how(self, number: int) -> How:
        return replace(self.first, purpose=replace(self.first.purpose, name=f"turn {number}"))

    def after(self, number: int, prompt: Prompt, turn: Turn, group: Members) -> Coming:
        if number == len(prompt.text):
            return ended(group)
        heard = Segment(token_ids=(number,), trainable=False)
        last = group[-1:]  # the others wait
        return at_once(
            Turn(
                begun=tuple(
                    Begun(prompt=prompt, member=t.member, segments=(*t.segments, heard)) for t in last
                ),
                waiting=group[:-1],
            )
        )


def test_groups_that_go_on_do_so_together_and_the_others_leave() -> None:
    parrot = Parrot(lambda begun, purpose: (begun.member, 9))
    found = list(play(world(Again, parrot, members=2), PROMPTS))  # type: ignore[arg-type]
    assert [place for place, _ in found] == [0, 1, 2]  # "three" has five letters
    assert [(name, members) for name, _, members in parrot.asked] == [
        ("turn 1", [[0, 1]] * 3),
        ("turn 2", [[1]] * 3),
        ("turn 3", [[1]] * 3),
        ("turn 4", [[1]]),
        ("turn 5", [[1]]),
    ]
    waited, spoke = found[2][1]
    assert (waited.member, len(waited.segments)) == (0, 2)
    heard = [s.token_ids for s in spoke.segments if not s.trainable]
    assert (spoke.member, heard) == (1, [(5,), (1,), (2,), (3,), (4,)])
    assert spoke.completion_tokens == 10


@dataclass(frozen=True, kw_only=True)
class Refusing(Again):
    def between(self, number: int, groups: Sequence[Members]) -> None:
        raise GuardStop("refused", f"turn {number}: {len(groups)} groups.", "")


def test_a_world_may_refuse_between_two_turns_and_not_after_the_last() -> None:
    parrot = Parrot(lambda begun, purpose: (1,))
    with pytest.raises(GuardStop, match="turn 1: 3 groups"):
        list(play(world(Refusing, parrot, members=1), PROMPTS))  # type: ignore[arg-type]
    one = prompts("x")
    assert len(list(play(world(Refusing, parrot, members=1), one))) == 1


def test_a_pause_reaches_the_speaker() -> None:
    def pause() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        list(play(world(SingleTurn, Parrot(lambda b, p: (1,))), PROMPTS, pause))  # type: ignore[arg-type]


def test_early_exits_in_two_turns() -> None:
    """The thought is "bbbb" before the end "z"; its exits are forced and answered."""
    exits = EarlyExitSettings(ends="z", answer_tokens=1)
    thoughts = {"p0": (1, 1, 1, 1, 25, 3), "p1": (25, 3)}

    def says(begun: Begun, purpose: Purpose) -> tuple[int, ...]:
        return thoughts[begun.prompt.id] if purpose.name == "rollout" else (7,)

    parrot = Parrot(says)
    how = replace(HOW, sampling=Sampling(max_tokens=8))
    groups = dict(play(world(EarlyExit, parrot, 3, first=how, exits=exits), PROMPTS[:2]))  # type: ignore[arg-type]
    assert parrot.asked == [("rollout", 8, [[0], [0]]), ("early_exit", 1, [[0, 1], []])]
    assert [t.member for t in groups[0]] == [0, 1, 2]
    for early in groups[0][:2]:
        thought, forced, answer = early.segments[1:]
        assert set(thought.token_ids) == {1}
        assert (forced.token_ids, forced.trainable, answer.token_ids) == ((25,), False, (7,))
    assert groups[0][2].completion == "bbbbzd"
    assert [(t.member, t.completion) for t in groups[1]] == [(0, "zd")]  # no thought: alone


def test_the_world_that_settings_name() -> None:
    speaker: Any = Parrot(lambda b, p: ())
    assert world_of(RolloutSettings(), speaker, HOW) == SingleTurn(speaker=speaker, members=8, first=HOW)
    exits = EarlyExitSettings(ends="z")
    made = world_of(RolloutSettings(early_exit=exits, group_size=5), speaker, HOW)
    assert made == EarlyExit(speaker=speaker, members=5, first=HOW, exits=exits)
