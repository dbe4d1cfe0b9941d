"""What a run tells while it goes: the pipeline speaks to an Observer, the command line draws it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar, runtime_checkable

from refine_rl.types import Metrics

T = TypeVar("T")


class Observer(Protocol):
    """Listens to a run. Nothing that it does may change the run."""

    def stage(self, text: str) -> None:
        """A part of the run begins."""

    def note(self, text: str) -> None:
        """Something worth reading."""

    def warning(self, text: str) -> None:
        """Something that a person should look at."""

    def step(self, metrics: Metrics, steps: int) -> None:
        """A training step has ended."""


@runtime_checkable
class Counting(Protocol):
    """What an Observer may have beside: it hears how far a part is, many times a second and from any
    thread."""

    def count(self, what: str, done: int, of: int) -> None:
        """So many of so many are done; `what` says of what, as in "answers". "steps" are the training's."""


def count(observer: object, what: str, done: int, of: int) -> None:
    """Tells an observer how far a part is, where it hears that."""
    if isinstance(observer, Counting):
        observer.count(what, done, of)


Counted = Callable[[int, int], None]
"""Called with how much of a part is done, and how much there is."""


def uncounted(done: int, of: int) -> None:
    """A Counted that nobody hears."""


class Quiet:
    """Hears everything and says nothing."""

    def stage(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def step(self, metrics: Metrics, steps: int) -> None: ...


Pause = Callable[[], None]
"""Called at safe places many times a second; raises Interrupted where the person wants to stop."""


def never() -> None:
    """A Pause that never stops."""


def wait(future: Future[T], pause: Pause) -> T:
    """The future's result; `pause` is called while it is not there."""
    while True:
        try:
            return future.result(timeout=0.05)
        except TimeoutError:
            if future.done():  # the error is the future's own
                return future.result()
            pause()
