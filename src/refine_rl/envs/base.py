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
    """Where a speaker's trajectories take place. `number` counts turns, 1, 2 ...; nothing is kept from one
    group to the next. Those of one turn are single_turn.py."""

    @property
    def speaker(self) -> Speaker:
        """Who continues them."""

    def fits(self) -> None:
        """Raises UserError where the limits of tokens leave this model no room."""

    def how(self, number: int) -> How:
        """How turn `number` is drawn."""

    def begin(self, prompt: Prompt) -> Turn:
        """The first turn of a prompt's group."""

    def after(self, number: int, prompt: Prompt, group: Members) -> Turn | None:
        """What follows turn `number` of a group, in the order of its members; None: it is over."""

    def between(self, number: int, groups: Sequence[Members]) -> None:
        """Sees all groups after a turn, before the next begins. Raises GuardStop where to go on makes no
        sense."""
