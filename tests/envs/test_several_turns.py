"""Worlds of several turns, with a speaker that needs no model: who hears what, and how trajectories end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from make import prompt, scored
from refine_rl.envs.base import How
from refine_rl.envs.play import play
from refine_rl.envs.several_turns import SeveralTurns
from refine_rl.envs.stage import Stage
from refine_rl.errors import Interrupted
from refine_rl.policy.control import ControlTextError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.rewards.world import WorldReward
from refine_rl.types import Message, Prompt, Trajectory
from speaker import Parrot

HOW = How(sampling=Sampling(max_tokens=4), purpose=Purpose(seed=0, step=3, name="rollout"))
PROMPT = prompt("p0", "guess", word="c")


class Reader(Parrot):
    """A parrot that reads up to 40 tokens."""

    context = 40

    def answer_room(self, prompt: int) -> int:
        return self.context - prompt


class Letters:
    """Wants the letter of the prompt's data: "b" or "d" is told to go on, anything longer raises."""

    def start(self, data: dict[str, Any], seed: int) -> str:
        self.word, self.seed = data["word"], seed
        return ""

    def step(self, reply: str) -> tuple[str, float, bool]:
        if reply == self.word:
            return "yes", 1.0, True
        if reply == "z":
            raise LookupError("no such letter")
        return "no", 0.25, False


def played(
    make: Callable[[], Any],
    says: Callable[[Begun, Purpose], Sequence[int]],
    *,
    members: int = 2,
    prompts: Sequence[Prompt] = (PROMPT,),
    parrot: type[Reader] = Reader,
    **limits: Any,
) -> tuple[list[tuple[Trajectory, ...]], Reader]:
    speaker = parrot(says)
    stage = Stage(make, name="Letters", **limits)
    world = SeveralTurns(speaker=speaker, members=members, first=HOW, stage=stage)  # type: ignore[arg-type]
    groups = dict(play(world, prompts))
    return [groups[n] for n in range(len(prompts))], speaker


def turn_of(begun: Begun) -> int:
    return sum(s.trainable for s in begun.segments) + 1


def one_a_turn(*letters: str) -> Callable[[Begun, Purpose], Sequence[int]]:
    """Member m says the m-th word a letter at a time, a turn each."""

    def says(begun: Begun, purpose: Purpose) -> tuple[int, ...]:
        return (ord(letters[begun.member][turn_of(begun) - 1]) - 97,)

    return says


def test_a_game_token_by_token() -> None:
    [(first, second)], speaker = played(Letters, one_a_turn("c", "bc"))
    assert [(s.token_ids, s.trainable) for s in second.segments] == [
        ((5,), False),  # the prompt
        ((1,), True),
        ((99, 13, 14, 99), False),  # what the template writes of "no"
        ((2,), True),
    ]
    assert second.messages == (
        {"role": "user", "content": "guess"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "no"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "yes"},  # said at the end: nobody read it
    )
    assert first.played is not None
    assert second.played is not None
    assert (first.played.rewards, first.played.end) == ((1.0,), "done")
    assert (second.played.rewards, second.played.end, second.played.why) == ((0.25, 1.0), "done", "")
    assert (second.completion, second.answers, second.said) == ("c", ("b", "c"), "b\n\nc")
    assert second.completion_tokens == 2
    # Each turn from the second on has draws of its own, and only who goes on takes them.
    assert speaker.asked == [("rollout", 4, [[0, 1]]), ("rollout, turn 2", 4, [[1]])]


def test_groups_go_on_together_and_come_out_as_they_end() -> None:
    prompts = [prompt(f"p{n}", "guess", word="c") for n in range(3)]

    def says(begun: Begun, purpose: Purpose) -> tuple[int, ...]:
        last = {"p0": 2, "p1": 1, "p2": 3}[begun.prompt.id]
        return (2 if turn_of(begun) == last else 1,)

    speaker = Reader(says)
    world: Any = SeveralTurns(
        speaker=speaker,  # type: ignore[arg-type]
        members=1,
        first=HOW,
        stage=Stage(Letters, name="Letters"),
    )
    assert [place for place, _ in play(world, prompts)] == [1, 0, 2]
    assert [members for _, _, members in speaker.asked] == [[[0]] * 3, [[0]] * 2, [[0]]]


@pytest.mark.parametrize(
    ("limits", "says", "end", "why", "answers", "stop"),
    [
        ({"turns": 2}, "bbb", "limit", "rollout.turns = 2", 2, "stop"),
        ({"tokens": 8}, "bbb", "limit", "rollout.trajectory_tokens = 8", 1, "length"),
        ({"tokens": 9}, "bbb", "limit", "rollout.trajectory_tokens = 9", 2, "length"),
        ({"turns": 9}, "b" * 9, "limit", "the text that the model reads is full", 8, "length"),
        ({}, "bz", "failed", "turn 2: LookupError: no such letter", 2, "stop"),
    ],
)
def test_other_ends(limits: Any, says: str, end: str, why: str, answers: int, stop: str) -> None:
    [(t,)], _ = played(Letters, one_a_turn(says), members=1, **limits)
    assert t.played is not None
    assert (t.played.end, len(t.answers), t.stop_reason) == (end, answers, stop)
    assert t.played.why.startswith(why)
    assert t.segments[-1].trainable  # nobody read what came behind it


def test_tokens_that_just_suffice_are_enough() -> None:
    """Behind the prompt 1 + 4 tokens stand, and a turn may have 4 more."""
    [(t,)], _ = played(Letters, one_a_turn("bc"), members=1, tokens=9)
    assert t.played is not None
    assert t.played.end == "done"


def test_an_answer_that_was_cut_is_not_shown_to_the_world() -> None:
    heard: list[str] = []

    class Heard(Letters):
        def step(self, reply: str) -> tuple[str, float, bool]:
            heard.append(reply)
            return super().step(reply)

    def says(begun: Begun, purpose: Purpose) -> tuple[int, ...]:
        return (1,) if turn_of(begun) == 1 else (2, 2, 2, 2)

    [(t,)], _ = played(Heard, says, members=1)
    assert heard == ["b"]
    assert t.played is not None
    assert (t.played.rewards, t.played.end) == ((0.25,), "limit")
    assert t.played.why == "the answer was cut at rollout.max_tokens = 4"
    assert (t.stop_reason, t.completion) == ("length", "cccc")


def test_what_is_said_first_ends_the_prompt() -> None:
    class Told(Letters):
        def start(self, data: dict[str, Any], seed: int) -> str:
            super().start(data, seed)
            return "one letter"

    [(t,)], _ = played(Told, one_a_turn("c"), members=1)
    assert t.messages[0] == {"role": "user", "content": "guess\n\none letter"}
    assert t.segments[0].token_ids == (len("guess\n\none letter"),)


def test_members_and_models_meet_the_same_world_and_steps_another() -> None:
    seeds: list[int] = []

    class Seeded(Letters):
        def start(self, data: dict[str, Any], seed: int) -> str:
            seeds.append(seed)
            return super().start(data, seed)

    played(Seeded, one_a_turn("c", "c", "c"), members=3)
    played(Seeded, one_a_turn("c"), members=1)
    assert len(set(seeds)) == 1
    played(Seeded, one_a_turn("c"), members=1, prompts=[prompt("p1", "guess", word="c")])
    assert len(set(seeds)) == 2


def test_the_data_is_its_own() -> None:
    class Greedy(Letters):
        def start(self, data: dict[str, Any], seed: int) -> str:
            super().start(data, seed)
            data.clear()
            return ""

    played(Greedy, one_a_turn("c", "c"))
    assert PROMPT.data == {"word": "c"}


# -- worlds that fail ----------------------------------------------------------------------------


def failing(answer: Any) -> type:
    class Odd(Letters):
        def step(self, reply: str) -> Any:
            return answer() if callable(answer) else answer

    return Odd


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "step returned None, not a tuple (observation, reward, done)"),
        (("a", 1.0), "step returned ('a', 1.0), not a tuple"),
        (("a", 1.0, False, {}), "not a tuple"),
        ((3, 1.0, False), "the observation 3, not a text"),
        (("a", "1.0", False), "the reward '1.0', not a finite number"),
        (("a", float("nan"), False), "the reward nan, not a finite number"),
        (("a", float("inf"), False), "the reward inf, not a finite number"),
        (("a", 1.0, 1), "step returned 1 for `done`, not True or False"),
        (("a", 1.0, None), "step returned None for `done`"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: os._exit(3), "os._exit would end the whole run"),
    ],
)
def test_nonsense_fails_and_the_score_is_missing(answer: Any, why: str) -> None:
    [(t, _)], _ = played(failing(answer), one_a_turn("b", "b"))
    assert t.played is not None
    assert t.played.end == "failed"
    assert why in t.played.why
    assert "seats.py" not in t.played.why  # no line of ours
    assert t.messages[-1] == {"role": "assistant", "content": "b"}
    (score,) = asyncio.run(WorldReward().score_group(PROMPT, [t]))
    assert (score.status, score.value) == ("missing", None)
    assert why in score.explanation


def test_numbers_of_other_kinds_are_numbers() -> None:
    import numpy as np

    [(t, _)], _ = played(failing(("", np.float32(0.5), np.True_)), one_a_turn("b", "b"))
    assert t.played is not None
    assert (t.played.rewards, t.played.end) == ((0.5,), "done")
    assert t.messages[-1]["role"] == "assistant"  # it said nothing


@pytest.mark.parametrize("method", ["__init__", "start"])
def test_a_world_that_cannot_be_begun(method: str) -> None:
    def refuses(self: Any, *arguments: Any) -> str:
        raise ValueError("not today")

    [(t, other)], speaker = played(type("Shut", (Letters,), {method: refuses}), one_a_turn("c", "c"))
    for each in (t, other):
        assert each.played is not None
        assert (each.played.end, each.played.rewards) == ("failed", ())
        assert each.played.why.startswith("start: ValueError: not today")
        assert (each.completion, each.answers, len(each.segments)) == ("", (), 1)
    assert speaker.asked == []


def test_a_world_that_does_not_follow_from_its_seed() -> None:
    said = iter(["one", "two", "one"])

    class Fickle(Letters):
        def start(self, data: dict[str, Any], seed: int) -> str:
            super().start(data, seed)
            return next(said)

    [group], _ = played(Fickle, one_a_turn("c", "c", "c"), members=3)
    assert [t.played.end for t in group if t.played] == ["done", "failed", "done"]
    assert group[1].played is not None
    assert "must follow from its seed" in group[1].played.why


def test_a_hanging_world_is_left_and_the_others_go_on() -> None:
    class Hangs(Letters):
        def step(self, reply: str) -> tuple[str, float, bool]:
            while reply == "h":
                time.sleep(0.01)
            return super().step(reply)

    [(hung, fine)], _ = played(Hangs, one_a_turn("h", "c"), seconds=0.3)
    assert hung.played is not None
    assert fine.played is not None
    assert (hung.played.end, fine.played.end) == ("failed", "done")
    assert "did not come back within 0.3 s (rollout.turn_timeout)" in hung.played.why
    assert "time.sleep(0.01)" in hung.played.why  # where it stood


def test_async_worlds_wait_together() -> None:
    """Each member's step waits until all of them have begun."""
    arrived: list[str] = []

    class Slow(Letters):
        async def step(self, reply: str) -> tuple[str, float, bool]:  # type: ignore[override]
            arrived.append(reply)
            while len(arrived) < 3:
                await asyncio.sleep(0.001)
            return "", 1.0, True

    [group], _ = played(Slow, one_a_turn("a", "b", "c"), members=3, seconds=60.0)
    assert [t.played.end for t in group if t.played] == ["done"] * 3


def test_a_hanging_async_world() -> None:
    class Waits(Letters):
        async def start(self, data: dict[str, Any], seed: int) -> str:  # type: ignore[override]
            return super().start(data, seed)

        async def step(self, reply: str) -> tuple[str, float, bool]:  # type: ignore[override]
            if reply == "h":
                await asyncio.sleep(60)
            return super().step(reply)

    [(hung, fine)], _ = played(Waits, one_a_turn("h", "c"), seconds=0.3)
    assert hung.played is not None
    assert fine.played is not None
    assert (hung.played.end, fine.played.end) == ("failed", "done")
    assert "did not come back within 0.3 s (rollout.turn_timeout)" in hung.played.why


def test_a_pause_comes_through_while_a_world_is_waited_for() -> None:
    leave = threading.Event()

    class Holds(Letters):
        def step(self, reply: str) -> tuple[str, float, bool]:
            assert leave.wait(60)
            return super().step(reply)

    calls = []

    def pause() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted("stop")

    speaker = Reader(one_a_turn("c"))
    world: Any = SeveralTurns(
        speaker=speaker,  # type: ignore[arg-type]
        members=1,
        first=HOW,
        stage=Stage(Holds, name="Holds", seconds=60.0),
    )
    with pytest.raises(Interrupted):
        list(play(world, [PROMPT], pause))
    leave.set()


def test_an_observation_that_reads_like_a_control_token() -> None:
    class Strict(Reader):
        def next_turn(
            self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
        ) -> tuple[int, ...]:
            raise ControlTextError("reads like a control token")

    [(t,)], _ = played(Letters, one_a_turn("bc"), members=1, parrot=Strict)
    assert t.played is not None
    assert (t.played.end, t.played.why) == ("failed", "turn 1: reads like a control token")


# -- what it comes to ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("take", "discount", "value"),
    [("sum", 1.0, 0.75), ("sum", 0.5, 0.625), ("best", 1.0, 1.0), ("best", 0.5, 0.5), ("last", 0.5, -0.125)],
)
def test_taking_the_rewards(take: str, discount: float, value: float) -> None:
    assert WorldReward(take=take, discount=discount).value([0.25, 1.0, -0.5]) == value
    assert WorldReward(take=take, discount=discount).value([]) == 0.0


def test_a_single_answer_has_no_world() -> None:
    (score,) = scored(WorldReward(), PROMPT, "c")
    assert (score.status, "no world was played" in score.explanation) == ("missing", True)
