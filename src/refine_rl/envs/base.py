"""What a World is: it begins a prompt's trajectories, and says after each turn what comes next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose, Speaker
from refine_rl.progress import Pause, wait
from refine_rl.types import Prompt, Trajectory

Members = tuple[Trajectory, ...]
Stepped = tuple[str, float, bool]
"""What a user's environment answers to a reply: what it says, the turn's reward, whether it is over."""


class Environment(Protocol):
    """A world of several turns, as a user writes it: a plain class, which is called without arguments for
    each trajectory (no base class is needed; `play.py` plays it, by way of several_turns.py). Both methods
    may be async.

    What it does has to follow from `data`, `seed` and the replies alone: all members of a group get the same
    `seed`, and so do base and tuned.
    """

    def start(self, data: Mapping[str, Any], seed: int) -> str | Awaitable[str]:
        """What is said to the policy after the prompt ("": nothing). `data` is the prompt's."""

    def step(self, reply: str) -> Stepped | Awaitable[Stepped]:
        """What the world answers to a reply, the reward of this turn, and whether it is over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a group does next: the members that the policy continues, and those that wait, as they are.
    `over`: nothing follows, and all of them wait. `kept` is what the world needs again after the turn."""

    begun: tuple[Begun, ...] = ()
    waiting: Members = ()
    over: bool = False
    kept: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Coming:
    """A turn on its way: `make` makes it of what `answers` will hold."""

    answers: Future[Any]
    make: Callable[[Any], Turn]

    @property
    def here(self) -> bool:
        return self.answers.done()

    def wait(self, pause: Pause) -> Turn:
        """The turn; `pause` is called while it is not there."""
        return self.make(wait(self.answers, pause))


def at_once(turn: Turn) -> Coming:
    """A turn that nobody has to wait for."""
    here: Future[Turn] = Future()
    here.set_result(turn)
    return Coming(answers=here, make=lambda turn: turn)


def ended(group: Members) -> Coming:
    """A group that is over as it is."""
    return at_once(Turn(waiting=group, over=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How the tokens of a turn are drawn."""

    sampling: Sampling
    purpose: Purpose


class World(Protocol):
    """Where a speaker's trajectories take place. `number` counts turns, 1, 2 ...; a world keeps nothing but
    what it gives along with a turn (`Turn.kept`). Those of one turn are single_turn.py."""

    @property
    def speaker(self) -> Speaker:
        """Who continues them."""

    @property
    def goes_on(self) -> bool:
        """Whether a member's next turn begins with all that stands of it, so that the speaker's keys and
        values are worth keeping."""

    def fits(self) -> None:
        """Raises UserError where this model and its limits of tokens do not go with this world."""

    def how(self, number: int) -> How:
        """How turn `number` is drawn."""

    def begin(self, prompt: Prompt) -> Coming:
        """The first turn of a prompt's group."""

    def after(self, number: int, prompt: Prompt, turn: Turn, group: Members) -> Coming:
        """What follows turn `number` of a group, which is given in the order of its members. Whatever takes
        its time goes on while others are sampled."""

    def between(self, number: int, groups: Sequence[Members]) -> None:
        """Sees all groups that go on after a turn, before the next begins. Raises GuardStop where to go on
        makes no sense."""
