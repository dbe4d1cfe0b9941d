"""The plain world: the policy answers once, and that is all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.envs.base import Coming, How, Members, Turn, at_once, ended
from refine_rl.policy.protocol import Speaker, begun
from refine_rl.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleTurn:
    """A prompt, `members` answers, each drawn as `first` says."""

    speaker: Speaker
    members: int
    first: How

    @property
    def goes_on(self) -> bool:
        return False

    def fits(self) -> None: ...

    def how(self, number: int) -> How:
        return self.first

    def begin(self, prompt: Prompt) -> Coming:
        return at_once(Turn(begun=begun(self.speaker.encode(prompt.messages), prompt, self.members)))

    def after(self, number: int, prompt: Prompt, turn: Turn, group: Members) -> Coming:
        return ended(group)

    def between(self, number: int, groups: Sequence[Members]) -> None: ...
