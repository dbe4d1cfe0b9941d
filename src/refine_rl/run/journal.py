"""Journal: what a run tells goes on record and to those who listen, in one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol, runtime_checkable

from refine_rl.progress import Observer, count
from refine_rl.run.folder import RunFolder
from refine_rl.run.forgotten import goes_back_on, marked
from refine_rl.types import Metrics


@runtime_checkable
class Keeping(Protocol):
    """What a further listener may have beside what an Observer has."""

    def kept(self, step: int) -> None:
        """A validation or a checkpoint of `step` is on record."""


class Listeners:
    """Observers as one. The `first` (the screen, or whom a Python caller handed in) may stop the run by an
    exception; of each of the others the first one is told to `failed`, and every one is dropped."""

    def __init__(self, first: Observer, *others: Observer, failed: Callable[[str], object]) -> None:
        self._first, self._others, self._failed = first, [*others], failed
        self._known: set[int] = set()  # places of those that failed before

    def add(self, other: Observer) -> None:
        """One more of the others."""
        self._others.append(other)

    def stage(self, text: str) -> None:
        self._each(lambda observer: observer.stage(text))

    def note(self, text: str) -> None:
        self._each(lambda observer: observer.note(text))

    def warning(self, text: str) -> None:
        self._each(lambda observer: observer.warning(text))

    def step(self, metrics: Metrics, steps: int) -> None:
        self._each(lambda observer: observer.step(metrics, steps))

    def count(self, what: str, done: int, of: int) -> None:
        self._each(lambda observer: count(observer, what, done, of))

    def kept(self, step: int) -> None:
        """To the others alone: a run within a run has listeners of its own."""
        self._each(lambda o: o.kept(step) if isinstance(o, Keeping) else None, first=False)

    def _each(self, tell: Callable[[Observer], None], *, first: bool = True) -> None:
        if first:
            tell(self._first)
        for place, observer in enumerate(self._others):
            try:
                tell(observer)
            except Exception as error:  # whatever it is, the run goes on
                if place not in self._known:
                    self._known.add(place)
                    what = f"{type(error).__name__}: {error}".removesuffix(": ")
                    self._failed(f"{type(observer).__name__} could not show what the run tells: {what}")


class Journal:
    """A run's events and its listeners. `observer` tells the listeners alone, what need not be on record; it
    may be given to whoever wants an Observer."""

    def __init__(self, folder: RunFolder, first: Observer, *others: Observer) -> None:
        self._folder = folder
        self.observer = Listeners(first, *others, failed=lambda text: self.warning("listener", text))

    def listen(self, other: Observer) -> None:
        """One more listener, which changes nothing where it fails."""
        self.observer.add(other)

    def event(self, kind: str, name: str, text: str, step: int | None = None, **more: str) -> None:
        """On record only: started, guard, best ..."""
        self._folder.event(kind, name, text, step, **more)
        if kind in ("warning", "note"):
            self._told[name] = step

    def warning(
        self, name: str, text: str, step: int | None = None, *, shown: str = "", once: bool = False
    ) -> bool:
        """Something that a person should look at. The listeners hear `shown` where it is given, else the
        text. With `once`, nothing happens where the run has told a warning or note of this name already, in
        an earlier process or this one; says whether it was told."""
        if fresh := not (once and self.told(name)):
            self.event("warning", name, text, step)
            self.observer.warning(shown or text)
        return fresh

    def note(self, name: str, text: str, step: int | None = None, *, once: bool = False, **more: str) -> bool:
        """What is good to know, and no reason to worry; `more` goes on record beside it. All else as in
        `warning`."""
        if fresh := not (once and self.told(name)):
            self.event("note", name, text, step, **more)
            self.observer.note(text)
        return fresh

    def stage(self, text: str) -> None:
        """A part of the run begins: to the listeners alone."""
        self.observer.stage(text)

    def step(self, metrics: Metrics, steps: int) -> None:
        """A training step of `steps` has ended."""
        self._folder.metrics.append(metrics)
        self.observer.step(metrics, steps)

    def kept(self, step: int) -> None:
        """A validation or a checkpoint of `step` is on record."""
        self.observer.kept(step)

    @property
    def resume(self) -> str:
        """The command (or the call) that goes on with the run."""
        return self._folder.resume

    def told(self, name: str) -> bool:
        """Whether a warning or note of this name is on record, and not of a step that was gone back on."""
        return name in self._told

    def went_back(self, step: int) -> None:
        """The run has gone back to `step`: what was told of later steps may be told again."""
        self._told = {name: of for name, of in self._told.items() if not goes_back_on(of, step)}

    @cached_property
    def _told(self) -> dict[str, int | None]:
        """The names, with the step of which each was told last."""
        events = marked(self._folder.events())
        return {
            e["name"]: e["step"] for e in events if e["kind"] in ("warning", "note") and not e["forgotten"]
        }
