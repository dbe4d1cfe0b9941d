"""Worlds of several turns: the policy speaks, the user's environment answers, and so on, until the
environment says that it is over or turns or tokens run out.

Tokens in, tokens out: what was sampled stands, and behind it come the tokens that the template writes until
the policy is to speak again, the environment's words among them. These are given and not trained. A turn is
begun only where all of its `max_tokens` have room, so no answer is cut but by its own limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from refine_rl.envs.base import Coming, How, Members, Stepped, Turn, ended
from refine_rl.envs.stage import Stage, Started
from refine_rl.foreign.seats import Failure
from refine_rl.policy.control import ControlTextError
from refine_rl.policy.protocol import Begun, Purpose, Speaker
from refine_rl.randomness import generator
from refine_rl.types import End, Message, Played, Prompt, Segment, Trajectory

_ASKED: Message = {"role": "user", "content": "refine begins"}
_ROLE = "user"  # who speaks for the environment


@dataclass(frozen=True, kw_only=True, slots=True)
class _Game:
    """What is kept of a member between its turns: its environment, and the rewards so far."""

    environment: Any
    rewards: tuple[float, ...] = ()


_Games = dict[int, _Game]
"""Those of a group's members that go on, by member."""


def world_seed(key: Purpose, prompt: Prompt) -> int:
    """What the environments of a prompt's group are started with."""
    return int(generator(key.seed, key.step, prompt.id, "world").integers(2**31))


@dataclass(frozen=True, kw_only=True, slots=True)
class SeveralTurns:
    """A prompt, and `members` trajectories in an environment of `stage` each."""

    speaker: Speaker
    members: int
    first: How
    stage: Stage

    @property
    def goes_on(self) -> bool:
        return True

    def fits(self) -> None:
        """Raises UserError where the model knows no second turn, or its template writes earlier ones anew."""
        self.speaker.check_turns((_ASKED,), self.stage.role, as_sampled=self.stage.as_sampled)

    def how(self, number: int) -> How:
        purpose = self.first.purpose
        if number > 1:
            purpose = replace(purpose, name=f"{purpose.name}, turn {number}")
        return replace(self.first, purpose=purpose)

    def begin(self, prompt: Prompt) -> Coming:
        seed = world_seed(self.first.purpose, prompt)
        return Coming(
            answers=self.stage.start(prompt.data, seed, self.members),
            make=partial(self._begun, prompt),
        )

    def _begun(self, prompt: Prompt, found: Sequence[Started | Failure]) -> Turn:
        """The group's first turn. Members that could not be started, or were told something else than the
        others, have failed."""
        said = next((one.said for one in found if isinstance(one, Started)), "")
        messages = as_told(prompt.messages, said)
        ids: tuple[int, ...] = ()
        why = ""
        try:
            ids = self.speaker.encode(messages)
            if self.speaker.answer_room(len(ids)) < self._turn_tokens:
                why = "what `start` says leaves no room for a turn of rollout.max_tokens"
        except ControlTextError as error:
            why = f"start: {error}"
        begun: list[Begun] = []
        waiting: list[Trajectory] = []
        games: _Games = {}
        prompted = Segment(token_ids=ids, trainable=False)
        for member, one in enumerate(found):
            reason = f"start: {one.why}" if isinstance(one, Failure) else why
            if isinstance(one, Started) and one.said != said:
                reason = "start did not say the same to all members of a group: it must follow from its seed"
            if reason or not isinstance(one, Started):
                waiting.append(_unbegun(prompt, member, messages, prompted, reason))
                continue
            games[member] = _Game(environment=one.environment)
            begun.append(Begun(prompt=prompt, member=member, segments=(prompted,), messages=messages))
        return Turn(begun=tuple(begun), waiting=tuple(waiting), over=not begun, kept=games)

    def after(self, number: int, prompt: Prompt, turn: Turn, group: Members) -> Coming:
        games: _Games = turn.kept
        spoke = {b.member for b in turn.begun}
        waiting = [t for t in group if t.member not in spoke]
        asked: list[Trajectory] = []
        for t in group:
            if t.member in spoke and t.stop_reason == "length":
                why = f"the answer was cut at rollout.max_tokens = {self._turn_tokens}"
                waiting.append(_over(t, games[t.member].rewards, "limit", why))
            elif t.member in spoke:
                asked.append(t)
        if not asked:
            return ended(_in_order(waiting))
        replies = [(games[t.member].environment, t.messages[-1]["content"]) for t in asked]
        return Coming(
            answers=self.stage.step(replies),
            make=partial(self._stepped, number, prompt, games, asked, waiting),
        )

    def _stepped(
        self,
        number: int,
        prompt: Prompt,
        games: _Games,
        asked: Sequence[Trajectory],
        waiting: Sequence[Trajectory],
        found: Sequence[Stepped | Failure],
    ) -> Turn:
        """What follows once the environments have answered."""
        begun: list[Begun] = []
        rest = list(waiting)
        going: _Games = {}
        for t, one in zip(asked, found, strict=True):
            game = games[t.member]
            if isinstance(one, Failure):
                rest.append(_over(t, game.rewards, "failed", f"turn {number}: {one.why}"))
                continue
            observation, reward, done = one
            rewards = (*game.rewards, reward)
            follows = self._following(number, prompt, t, observation, rewards, done=done)
            if isinstance(follows, Begun):
                begun.append(follows)
                going[t.member] = replace(game, rewards=rewards)
            else:
                rest.append(follows)
        return Turn(begun=tuple(begun), waiting=_in_order(rest), over=not begun, kept=going)

    def _following(
        self,
        number: int,
        prompt: Prompt,
        t: Trajectory,
        observation: str,
        rewards: tuple[float, ...],
        *,
        done: bool,
    ) -> Begun | Trajectory:
        """A member's next turn, or its end."""
        heard: Message = {"role": self.stage.role, "content": observation}
        told = replace(t, messages=(*t.messages, heard)) if observation else t
        if done:
            return _over(told, rewards, "done")
        if number == self.stage.turns:
            return _over(told, rewards, "limit", f"rollout.turns = {number}")
        try:
            ids = self.speaker.next_turn(t.messages, (heard,), as_sampled=self.stage.as_sampled)
        except ControlTextError as error:
            return _over(told, rewards, "failed", f"turn {number}: {error}")
        segments = (*t.segments, Segment(token_ids=ids, trainable=False))
        if limit := self._no_room(segments):
            return _over(replace(told, stop_reason="length"), rewards, "limit", limit)
        return Begun(prompt=prompt, member=t.member, segments=segments, messages=(*t.messages, heard))

    def _no_room(self, segments: Sequence[Segment]) -> str:
        """The limit that a further turn might go beyond; "" where it has room."""
        prompt, behind = len(segments[0].token_ids), sum(len(s.token_ids) for s in segments[1:])
        turn, most = self._turn_tokens, self.stage.tokens
        if most and behind + turn > most:
            return f"rollout.trajectory_tokens = {most}"
        if self.speaker.answer_room(prompt + behind) < turn:
            return "the text that the model reads is full"
        return ""

    def between(self, number: int, groups: Sequence[Members]) -> None: ...

    @property
    def _turn_tokens(self) -> int:
        return self.first.sampling.max_tokens


def as_told(messages: Sequence[Message], said: str) -> tuple[Message, ...]:
    """The prompt with what the environment says at the beginning: at the end of the user's last words, as
    many templates know no two messages of the same role in a row.

    >>> as_told([{"role": "user", "content": "Guess."}], "From 1 to 9.")
    ({'role': 'user', 'content': 'Guess.\\n\\nFrom 1 to 9.'},)
    """
    if not said:
        return tuple(messages)
    *before, last = messages
    if last["role"] != _ROLE:
        return (*messages, {"role": _ROLE, "content": said})
    return (*before, {**last, "content": f"{last['content']}\n\n{said}" if last["content"] else said})


def _unbegun(
    prompt: Prompt, member: int, messages: tuple[Message, ...], prompted: Segment, why: str
) -> Trajectory:
    """A trajectory that failed before the policy said anything."""
    return Trajectory(
        prompt_id=prompt.id,
        member=member,
        messages=messages,
        segments=(prompted,),
        stop_reason="stop",
        played=Played(rewards=(), end="failed", why=why),
    )


def _over(t: Trajectory, rewards: tuple[float, ...], end: End, why: str = "") -> Trajectory:
    return replace(t, played=Played(rewards=rewards, end=end, why=why))


def _in_order(trajectories: Sequence[Trajectory]) -> Members:
    return tuple(sorted(trajectories, key=lambda t: t.member))
