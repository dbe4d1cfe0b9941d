"""A world played with replies that are given, and no model: what a reward is tried on (`refine check`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from refine_rl.envs.several_turns import as_told, world_seed
from refine_rl.envs.stage import Stage, Started
from refine_rl.policy.protocol import Purpose
from refine_rl.types import End, Message, Played, Prompt, Segment, Trajectory

Replies = str | tuple[str, ...]
"""One reply for every turn, or those of the turns one after the other."""

_PURPOSE = Purpose(seed=0, step=0, name="check")
_GIVEN = Segment(token_ids=(), trainable=False)
_SAID = Segment(token_ids=(), trainable=True)


@dataclass(kw_only=True)
class _Game:
    """A member under way."""

    trajectory: Trajectory
    environment: Any
    replies: Replies
    rewards: tuple[float, ...] = ()

    def next_reply(self) -> str | None:
        """What it says in its next turn; None where nothing is left."""
        if isinstance(self.replies, str):
            return self.replies
        return self.replies[len(self.rewards)] if len(self.rewards) < len(self.replies) else None

    def say(self, role: str, text: str) -> None:
        message: Message = {"role": role, "content": text}
        more = _SAID if role == "assistant" else _GIVEN
        t = self.trajectory
        self.trajectory = replace(t, messages=(*t.messages, message), segments=(*t.segments, more))

    def over(self, end: End, why: str = "") -> Trajectory:
        return replace(self.trajectory, played=Played(rewards=self.rewards, end=end, why=why))


def recite(stage: Stage, prompt: Prompt, members: Sequence[Replies]) -> list[Trajectory]:
    """A trajectory for each member's replies, in worlds of the same seed. One that has no reply left ends
    there, as at a limit; one whose world raises has failed. No tokens are in them."""
    started = stage.start(prompt.data, world_seed(_PURPOSE, prompt), len(members)).result()
    done: dict[int, Trajectory] = {}
    going: dict[int, _Game] = {}
    for member, (one, replies) in enumerate(zip(started, members, strict=True)):
        said = one.said if isinstance(one, Started) else ""
        begun = Trajectory(
            prompt_id=prompt.id,
            member=member,
            messages=as_told(prompt.messages, said),
            segments=(_GIVEN,),
            stop_reason="stop",
        )
        if isinstance(one, Started):
            going[member] = _Game(trajectory=begun, environment=one.environment, replies=replies)
        else:
            done[member] = replace(begun, played=Played(rewards=(), end="failed", why=f"start: {one.why}"))
    for turn in range(1, stage.turns + 1):
        done |= _turn(stage, going, turn)
    done |= {member: game.over("limit", f"rollout.turns = {stage.turns}") for member, game in going.items()}
    return [done[member] for member in range(len(members))]


def _turn(stage: Stage, going: dict[int, _Game], number: int) -> dict[int, Trajectory]:
    """Every member's next turn; those that end with it are taken out of `going`."""
    ended: dict[int, Trajectory] = {}
    said = {member: game.next_reply() for member, game in going.items()}
    for member, reply in said.items():
        if reply is None:
            ended[member] = going.pop(member).over("limit", "no more replies were given")
    speaking = [(member, reply) for member, reply in said.items() if reply is not None]
    for member, reply in speaking:
        going[member].say("assistant", reply)
    found = stage.step([(going[member].environment, reply) for member, reply in speaking]).result()
    for (member, _), one in zip(speaking, found, strict=True):
        game = going[member]
        if not isinstance(one, tuple):
            ended[member] = going.pop(member).over("failed", f"turn {number}: {one.why}")
            continue
        observation, reward, over = one
        game.rewards += (reward,)
        if observation or not (over or number == stage.turns):
            game.say(stage.role, observation)
        if over:
            ended[member] = going.pop(member).over("done")
    return ended
