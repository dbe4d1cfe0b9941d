"""The plain world: the policy answers once, and that is all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.envs.base import How, Members, Turn
from refine_rl.policy.protocol import Speaker, begun
from refine_rl.types import Prompt


@dataclass(frozen=True, slots=True)
class SingleTurn:
    """A prompt, an answer."""

    def fits(self, speaker: Speaker) -> None: ...

    def how(self, number: int, how: How) -> How:
        return how

    def begin(self, speaker: Speaker, prompt: Prompt, members: int, how: How) -> Turn:
        return Turn(begun=begun(speaker.encode(prompt.messages), prompt, members))

    def after(self, speaker: Speaker, number: int, prompt: Prompt, group: Members, how: How) -> Turn | None:
        return None

    def between(self, speaker: Speaker, number: int, groups: Sequence[Members], how: How) -> None: ...
