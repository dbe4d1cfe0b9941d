"""What the first process asks of the others: each an object that another process can be sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch._C._distributed_c10d import Store

from refine_rl.engines.base import Loading
from refine_rl.engines.processes.hand import Hand, States
from refine_rl.engines.processes.meet import join
from refine_rl.engines.processes.place import Place
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause
from refine_rl.training.learner import LearnerConfig, Objective
from refine_rl.training.rows import Row
from refine_rl.training.update import Found


@dataclass(frozen=True, kw_only=True)
class At:
    """Where an order is carried out: `hands` are the process's models by number; `say` sends a part of the
    result ahead; `pause` is called at safe places, and raises where the order is taken back;
    `sign` says that the process gets on."""

    place: Place
    store: Store
    hands: dict[int, Hand]
    say: Callable[[Any], None]
    pause: Pause
    sign: Callable[[], None]


class Order(Protocol):
    """`model` is the number of the model that it is about."""

    @property
    def model(self) -> int: ...
    @property
    def patient(self) -> bool:
        """Whether it may take however long without a sign in between."""

    def __call__(self, at: At) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    model: int = 0

    @property
    def patient(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Join(_Order):
    """The processes become torch's group, each with so many threads."""

    seconds: float
    threads: int | None

    def __call__(self, at: At) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        join(at.place, at.store, self.seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load(_Order):
    """Loads a model; gives its check sum."""

    loading: Loading

    @property
    def patient(self) -> bool:
        return True

    def __call__(self, at: At) -> int:
        hand = at.hands[self.model] = Hand(place=at.place, policy=self.loading.policy())
        return hand.policy.check_sum(whole=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread(_Order):
    """Of the model that all have, each keeps a part."""

    device: str

    @property
    def patient(self) -> bool:
        return True

    def __call__(self, at: At) -> None:
        hand = at.hands[self.model]
        hand.spread(self.device)
        assert hand.lockstep is not None
        hand.lockstep.sign = at.sign


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget(_Order):
    """The model is needed no more."""

    def __call__(self, at: At) -> None:
        at.hands.pop(self.model, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldStill(_Order):
    """See `Policy.hold_still`."""

    longest: int

    def __call__(self, at: At) -> None:
        at.hands[self.model].policy.hold_still(self.longest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speak(_Order):
    """Says each group as soon as it is over, with its place in `groups`."""

    groups: Sequence[Sequence[Begun]]
    sampling: Sampling
    purpose: Purpose
    memory: int | None
    reference: bool

    def __call__(self, at: At) -> None:
        hand = at.hands[self.model]
        for spoken in hand.speak(
            self.groups,
            sampling=self.sampling,
            purpose=self.purpose,
            pause=at.pause,
            memory=hand.memory(self.memory),
            reference=self.reference,
        ):
            at.say(spoken)


@dataclass(frozen=True, kw_only=True, slots=True)
class Logprobs(_Order):
    """Gives those of the batch, [B, T]."""

    batch: TokenBatch | None
    temperature: float
    reference: bool

    def __call__(self, at: At) -> torch.Tensor:
        return at.hands[self.model].logprobs(self.batch, self.temperature, reference=self.reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Learn(_Order):
    """Makes ready to learn."""

    config: LearnerConfig

    def __call__(self, at: At) -> None:
        hand = at.hands[self.model]
        hand.learn(self.config)


@dataclass(frozen=True, kw_only=True, slots=True)
class Take(_Order):
    """This process's rows of an update."""

    rows: Sequence[Row]

    def __call__(self, at: At) -> None:
        learner = at.hands[self.model].learner
        assert learner is not None
        learner.take(self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradient(_Order):
    """Gives what it came of, and which parameters have one."""

    objective: Objective
    step: int
    update: int

    def __call__(self, at: At) -> tuple[Found, list[bool]]:
        hand = at.hands[self.model]
        return hand.gradient(self.objective, self.step, self.update, at.pause), hand.touched()


@dataclass(frozen=True, kw_only=True, slots=True)
class AddUp(_Order):
    """The gradients' sum over the processes."""

    touched: Sequence[bool]

    def __call__(self, at: At) -> None:
        at.hands[self.model].add_up(self.touched)


@dataclass(frozen=True, kw_only=True, slots=True)
class Move(_Order):
    """An optimizer step; gives the weights' check sum."""

    rate: float
    norm: float

    def __call__(self, at: At) -> int:
        return at.hands[self.model].move(self.rate, self.norm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest(_Order):
    """An update is over."""

    def __call__(self, at: At) -> None:
        learner = at.hands[self.model].learner
        assert learner is not None
        learner.rest()


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeWeights(_Order):
    """The first process's weights, and with `states` its optimizer's."""

    states: States | None

    def __call__(self, at: At) -> int:
        hand = at.hands[self.model]
        hand.take_weights()
        if self.states is not None:
            hand.take_states(self.states)
        return hand.policy.check_sum()
