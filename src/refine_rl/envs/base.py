"""What a World is: it begins a prompt's trajectories, and says after each turn what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose, Speaker
from refine_rl.types import Prompt, Trajectory

Members = tuple[Trajectory, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a group does next: the members that the policy continues, and those that wait, as they are."""

    begun: tuple[Begun, ...]
    waiting: Members = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How the tokens of a turn are drawn."""

    sampling: Sampling
    purpose: Purpose


class World(Protocol):
    """Where trajectories take place. `number` counts turns, 1, 2 ...; nothing is kept from one group, or one
    step, to the next. An implementation of one turn is single_turn.py."""

    def fits(self, speaker: Speaker) -> None:
        """Raises UserError where the limits of tokens leave this model no room."""

    def how(self, number: int, how: How) -> How:
        """How turn `number` is drawn, given how the first is."""

    def begin(self, speaker: Speaker, prompt: Prompt, members: int, how: How) -> Turn:
        """The first turn of a prompt's group."""

    def after(self, speaker: Speaker, number: int, prompt: Prompt, group: Members, how: How) -> Turn | None:
        """What follows turn `number` of a group, in the order of its members; None: it is over."""

    def between(self, speaker: Speaker, number: int, groups: Sequence[Members], how: How) -> None:
        """Sees all groups after a turn, before the next begins. Raises GuardStop where to go on makes no
        sense."""
