"""The journal: one call, one event, every listener."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from make import metrics
from refine_rl.errors import Interrupted
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import StepMetrics

STEP = metrics()


class Heard:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def stage(self, text: str) -> None:
        self.told.append(("stage", text))

    def note(self, text: str) -> None:
        self.told.append(("note", text))

    def warning(self, text: str) -> None:
        self.told.append(("warning", text))

    def step(self, metrics: StepMetrics, steps: int) -> None:
        self.told.append(("step", metrics.step, steps))


class Broken(Heard):
    """An observer whose warnings and steps fail."""

    def warning(self, text: str) -> None:
        raise OSError("no network")

    def step(self, metrics: StepMetrics, steps: int) -> None:
        raise ValueError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", settings_from_dict({"task": "Be brief."}, tmp_path))


def on_record(run: RunFolder) -> list[tuple[object, ...]]:
    return [(e["kind"], e["name"], e["text"], e["step"]) for e in run.events()]


def test_one_call_is_an_event_and_a_word_to_every_listener(run: RunFolder) -> None:
    screen, tracker = Heard(), Heard()
    journal = Journal(run, screen, tracker)
    journal.stage("Training")
    assert journal.warning("slow", "It is slow.", 3, shown="Step 3: It is slow.")
    assert journal.note("kind", "Good to know.")
    journal.event("best", "validation", "0.5", 3)
    journal.step(STEP, 20)
    journal.observer.note("not on record")
    assert screen.told == tracker.told
    assert screen.told == [
        ("stage", "Training"),
        ("warning", "Step 3: It is slow."),
        ("note", "Good to know."),
        ("step", 1, 20),
        ("note", "not on record"),
    ]
    assert on_record(run) == [
        ("warning", "slow", "It is slow.", 3),
        ("note", "kind", "Good to know.", None),
        ("best", "validation", "0.5", 3),
    ]
    assert list(run.metrics.read()) == [STEP]


@pytest.mark.parametrize("tell", [Journal.warning, Journal.note])
def test_once_a_run_over_all_its_processes(run: RunFolder, tell: Callable[..., bool]) -> None:
    screen = Heard()
    journal = Journal(run, screen)
    assert tell(journal, "a", "first")  # without `once` it counts as told all the same
    assert [tell(journal, "a", "second", once=True), tell(journal, "b", "third", 2, once=True)] == [
        False,
        True,
    ]
    journal.event("best", "c", "no warning, no note")
    again = Journal(run, screen)
    assert again.told("a")
    assert not again.told("c")
    assert [tell(again, name, "later", once=True) for name in "abc"] == [False, False, True]
    assert tell(again, "a", "more")
    assert [e["text"] for e in run.events() if e["kind"] != "best"] == ["first", "third", "later", "more"]
    assert [text for _, text in screen.told] == ["first", "third", "later", "more"]


@pytest.mark.parametrize("process", ["the same", "the next"])
@pytest.mark.parametrize(("back", "told"), [(2, "ab"), (0, "a")])
def test_what_was_told_of_steps_gone_back_on_is_told_again(
    run: RunFolder, process: str, back: int, told: str
) -> None:
    journal = Journal(run, Heard())
    journal.warning("a", "of no step")
    journal.warning("b", "of a step that stays", 2)
    journal.note("c", "of one that does not", 4)
    run.event("rewound", "rewound", "Back", back)
    if process == "the same":
        journal.went_back(back)
    else:
        journal = Journal(run, Heard())
    assert [name for name in "abc" if journal.told(name)] == list(told)
    assert journal.note("c", "again", 4, once=True)
    assert not journal.note("c", "and again", 5, once=True)


def test_a_further_listener_that_fails_changes_nothing_and_is_named_once(run: RunFolder) -> None:
    screen, tracker = Heard(), Heard()
    journal = Journal(run, screen, Broken(), tracker)
    journal.warning("slow", "It is slow.", 3)
    journal.step(STEP, 20)
    failed = "Broken could not show what the run tells: OSError: no network"
    assert screen.told == [("warning", "It is slow."), ("warning", failed), ("step", 1, 20)]
    assert tracker.told == [("warning", failed), ("warning", "It is slow."), ("step", 1, 20)]
    assert on_record(run) == [("warning", "slow", "It is slow.", 3), ("warning", "listener", failed, None)]
    Journal(run, Heard(), Broken()).step(STEP, 20)
    assert on_record(run)[2:] == [
        ("warning", "listener", "Broken could not show what the run tells: ValueError", None)
    ]
    assert run.events()[-1]["kind"] == "warning"


@pytest.mark.parametrize("error", [OSError("no space left"), Interrupted(), KeyboardInterrupt()])
def test_what_the_first_listener_raises_goes_through(run: RunFolder, error: BaseException) -> None:
    class Stopping(Heard):
        def warning(self, text: str) -> None:
            raise error

    tracker = Heard()
    with pytest.raises(type(error)) as raised:
        Journal(run, Stopping(), tracker).warning("slow", "It is slow.", 3)
    assert raised.value is error
    assert tracker.told == []
    assert on_record(run) == [("warning", "slow", "It is slow.", 3)]  # on record before anybody hears it


def test_a_further_listener_that_is_stopped_by_hand_stops(run: RunFolder) -> None:
    class Stopped(Heard):
        def stage(self, text: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal(run, Heard(), Stopped()).stage("Training")


class Following(Heard):
    """An observer that hears how far parts are, and what is on record."""

    def count(self, what: str, done: int, of: int) -> None:
        self.told.append(("count", what, done, of))

    def kept(self, step: int) -> None:
        self.told.append(("kept", step))


def test_counts_are_heard_by_those_who_hear_them(run: RunFolder) -> None:
    plain, following = Heard(), Following()
    journal = Journal(run, plain, following)
    journal.observer.count("answers", 3, 8)
    assert plain.told == []
    assert following.told == [("count", "answers", 3, 8)]
    within = Following()
    Journal(run, journal.observer, within).observer.count("steps", 1, 2)  # a run within a run
    assert following.told[1:] == within.told == [("count", "steps", 1, 2)]


def test_what_is_kept_is_heard_by_a_runs_own_listeners(run: RunFolder) -> None:
    first, further, within = Following(), Following(), Following()
    journal = Journal(run, first, Heard(), further)
    journal.kept(7)
    Journal(run, journal.observer, within).kept(8)
    assert (first.told, further.told, within.told) == ([], [("kept", 7)], [("kept", 8)])
