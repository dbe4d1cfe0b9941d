"""A world played with given replies: as a speaker's that says the same, but for the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.envs.base import How
from refine_rl.envs.play import play
from refine_rl.envs.recite import recite
from refine_rl.envs.several_turns import SeveralTurns
from refine_rl.envs.stage import Stage
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.rewards.world import WorldReward
from refine_rl.types import Played, Prompt
from speaker import Parrot

PROMPT = prompt("p0", "guess", word="c")
FIRST = How(sampling=Sampling(max_tokens=9), purpose=Purpose(seed=0, step=0, name="check"))


class Letters:
    """Wants a letter; "z" raises, and "b" is answered by nothing."""

    def start(self, data: dict[str, Any], seed: int) -> str:
        if data["word"] == "?":
            raise LookupError("no word")
        self.word, self.seed = data["word"], seed
        return f"A letter, seed {seed % 7}."

    def step(self, reply: str) -> tuple[str, float, bool]:
        if reply == self.word:
            return "yes", 1.0, True
        if reply == "z":
            raise LookupError("no such letter")
        return "" if reply == "b" else f"no, {self.seed % 7}", 0.25, False


class Reader(Parrot):
    def answer_room(self, prompt: int) -> int:
        return 10_000


def as_spoken(stage: Stage, of: Prompt, members: Sequence[Sequence[str]]) -> Sequence[Any]:
    """What the real loop makes of the same replies, said by a speaker."""

    def says(begun: Begun, purpose: Purpose) -> tuple[int, ...]:
        turn = sum(s.trainable for s in begun.segments)
        return tuple(ord(letter) - 97 for letter in members[begun.member][turn])

    world = SeveralTurns(speaker=Reader(says), members=len(members), first=FIRST, stage=stage)  # type: ignore[arg-type]
    ((_, group),) = play(world, [of])
    return group


@pytest.mark.parametrize(
    "members",
    [
        [("c",), ("a", "c"), ("b", "a", "d")],
        [("z",), ("a", "z"), ("c",)],
        [("b", "b", "b")],
    ],
)
def test_it_is_what_a_speaker_plays(members: list[tuple[str, ...]]) -> None:
    stage = Stage(Letters, name="Letters", turns=3)
    found, spoken = recite(stage, PROMPT, members), as_spoken(stage, PROMPT, members)
    for mine, theirs in zip(found, spoken, strict=True):
        assert (mine.messages, mine.played) == (theirs.messages, theirs.played)
        assert (mine.answers, mine.completion, mine.member) == (
            theirs.answers,
            theirs.completion,
            theirs.member,
        )
    mine, theirs = (scored(_Given(group), PROMPT, *[""] * len(members)) for group in (found, spoken))
    assert mine == theirs


class _Given:
    """The world's reward of trajectories that are there already."""

    def __init__(self, group: Sequence[Any]) -> None:
        self._group = group

    async def score_group(self, of: Prompt, others: Sequence[Any]) -> Any:
        return await WorldReward().score_group(of, self._group)


def test_one_reply_is_said_in_every_turn_and_missing_ones_end_it() -> None:
    stage = Stage(Letters, name="Letters", turns=3)
    again, few, none = recite(stage, PROMPT, ["a", ("a",), ()])
    assert again.answers == ("a", "a", "a")
    assert again.played == Played(rewards=(0.25, 0.25, 0.25), end="limit", why="rollout.turns = 3")
    assert few.answers == ("a",)
    assert few.played == Played(rewards=(0.25,), end="limit", why="no more replies were given")
    assert none.answers == ()
    assert none.played == Played(rewards=(), end="limit", why="no more replies were given")


def test_a_world_that_cannot_begin_has_failed() -> None:
    (one,) = recite(Stage(Letters, name="Letters"), prompt("p1", "guess", word="?"), ["a"])
    assert one.played is not None
    assert one.played.end == "failed"
    assert "no word" in one.played.why
