"""A run and its trackers: each step once, whatever stops whom; and no tracker stops or slows the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import make
from refine_rl.progress import Quiet
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.run.trackers.courier import Courier
from refine_rl.run.trackers.known import FILE, Knowledge
from refine_rl.run.trackers.source import Source
from refine_rl.run.trackers.tracking import Tracking
from tracker import Kept, finished, look, run_folder, trained


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path / "run")


class Process:
    """One process of the run, with its trackers."""

    def __init__(self, run: RunFolder, *trackers: Kept, patience: float = 60.0) -> None:
        self.run, self.journal = run, Journal(run, Quiet())
        source, knowledge = Source(run, run.settings()), Knowledge(run.path)
        self.couriers = [
            Courier(f"kept-{number}", lambda tracker=tracker: tracker, source, knowledge)
            for number, tracker in enumerate(trackers)
        ]
        self.tracking = Tracking(self.couriers, self.journal, patience=patience)
        self.journal.listen(self.tracking)

    def train(self, *steps: int) -> None:
        for step in steps:
            trained(self.run, step)
            self.tracking.step(make.metrics(step), 9)

    def told(self) -> list[tuple[str, str]]:
        return [(e["kind"], e["text"]) for e in self.run.events() if e["name"].startswith("tracker_")]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_step_is_shown_once_it_is_whole_and_the_rest_at_the_end(run: RunFolder) -> None:
    kept = Kept()
    process = Process(run, kept)
    look(run, 0, 0.5)
    process.journal.kept(0)
    process.train(1, 2)
    until(lambda: kept.steps == {"run-1": [0, 1]})  # a validation of 2 may be to come
    look(run, 2, 0.75)
    process.journal.kept(2)
    until(lambda: kept.steps == {"run-1": [0, 1, 2]})
    process.train(3)
    finished(run)
    process.tracking.close()
    assert kept.steps == {"run-1": [0, 1, 2, 3]}
    assert [row.values.get("validation/reward") for row in kept.runs["run-1"]] == [0.5, None, 0.75, None]
    assert [row.values.get("reward/mean") for row in kept.runs["run-1"]] == [None, 0.125, 0.25, 0.375]
    assert [end.state for end in kept.ends] == ["finished"]
    assert kept.threads.isdisjoint({threading.main_thread()})
    assert process.told() == [("note", "shown as run-1")]


@pytest.mark.parametrize("knows", [False, True])
def test_a_resumed_run_goes_on_there_with_no_step_twice(run: RunFolder, knows: bool) -> None:
    kept = Kept(knows=knows)
    process = Process(run, kept)
    process.train(1, 2, 3)
    run.event("interrupted", "interrupted", "Stopped.")
    process.tracking.close()
    process = Process(run, kept)
    run.event("resumed", "run", "cpu")
    process.train(4, 5)
    finished(run)
    process.tracking.close()
    assert kept.steps == {"run-1": [1, 2, 3, 4, 5]}
    assert [end.state for end in kept.ends] == ["interrupted", "finished"]
    assert len(process.told()) == 1  # where it is shown is said once
    Process(run, kept).tracking.close()  # nothing is left to be shown
    assert len(kept.ends) == 2


def test_what_a_killed_process_did_not_send_is_sent_later(run: RunFolder) -> None:
    kept = Kept(knows=True)
    process = Process(run, kept)
    process.train(1, 2, 3)
    until(lambda: kept.steps == {"run-1": [1, 2]})
    # Killed here: step 3 was not sent, and that 2 was sent did not get on record.
    known = Knowledge(run.path)
    until(lambda: (k := known.get("kept-0")) is not None and k.sent == 2)
    (run.path / FILE).write_text((run.path / FILE).read_text().replace('"sent": 2', '"sent": 1'))
    trained(run, 4)  # and 4 was recorded before anybody heard of it
    later = Process(run, kept)
    later.train(5)
    until(lambda: kept.steps == {"run-1": [1, 2, 3, 4]})


def test_a_run_that_went_back_behind_what_is_shown_begins_anew_there(run: RunFolder) -> None:
    kept = Kept()
    process = Process(run, kept)
    process.train(1, 2, 3, 4)
    run.event("interrupted", "interrupted", "Stopped.")
    process.tracking.close()
    run.write_checkpoint(2, lambda folder: None)
    run.rewind(2)
    process = Process(run, kept)
    process.train(3, 4, 5)
    finished(run)
    process.tracking.close()
    assert kept.steps == {"run-1": [1, 2, 3, 4], "run-2": [1, 2, 3, 4, 5]}
    again = Process(run, kept)
    again.tracking.close()
    assert len(kept.runs) == 2


def test_a_process_that_goes_back_itself_begins_anew_there(run: RunFolder) -> None:
    """As after a drift: the tracker is open, and has steps that are forgotten."""
    kept = Kept()
    process = Process(run, kept)
    process.train(1, 2, 3)
    run.event("warning", "drift", "Apart.", 3)
    process.train(4, 5)
    until(lambda: kept.steps == {"run-1": [1, 2, 3, 4]})
    run.write_checkpoint(2, lambda folder: None)
    run.rewind(2)
    process.train(3)
    until(lambda: kept.steps == {"run-1": [1, 2, 3, 4], "run-2": [1, 2]})  # a validation of 3 may be to come
    look(run, 3, 0.5)
    process.journal.kept(3)
    until(lambda: kept.steps["run-2"] == [1, 2, 3])
    process.train(4)
    finished(run)
    process.tracking.close()
    assert kept.steps == {"run-1": [1, 2, 3, 4], "run-2": [1, 2, 3, 4]}
    assert [row.values.get("validation/reward") for row in kept.runs["run-2"]] == [None, None, 0.5, None]
    assert [row.warnings for row in kept.runs["run-2"]] == [(), (), (), ()]
    assert [(end.state, end.step) for end in kept.ends] == [("interrupted", 4), ("finished", 4)]
    assert kept.ends[0].text == "The run went back to step 2, and goes on in a new one."


def test_a_run_that_goes_back_to_what_is_shown_goes_on_there(run: RunFolder) -> None:
    kept = Kept()
    process = Process(run, kept)
    process.train(1, 2, 3)
    until(lambda: kept.steps == {"run-1": [1, 2]})
    run.write_checkpoint(2, lambda folder: None)
    run.rewind(2)
    process.train(3)
    finished(run)
    process.tracking.close()
    assert kept.steps == {"run-1": [1, 2, 3]}


def test_a_tracker_that_fails_is_told_of_once_and_tried_again(run: RunFolder) -> None:
    def fails(step: int) -> None:
        if (step, tries.setdefault(step, 0)) in ((2, 0), (2, 1), (1000, 0)):
            tries[step] += 1
            raise ConnectionError("no network")

    tries: dict[int, int] = {}
    kept, other = Kept(fails), Kept()
    process = Process(run, kept, other)
    for step in (1, 2, 3, 4, 5, 6):
        process.train(step)
        until(lambda step=step: {c.through for c in process.couriers} == {step - 1})
    assert kept.steps == {"run-1": [1, 2, 3, 4, 5]}
    finished(run)
    process.tracking.close()
    assert kept.steps == other.steps == {"run-1": [1, 2, 3, 4, 5, 6]}
    assert (kept.left, other.left) == (3, 0)
    warnings = [text for kind, text in process.told() if kind == "warning"]
    assert warnings == ["kept-0 could not be given the run: ConnectionError: no network"]
    Process(run, kept).tracking.close()  # the end, which failed, is made up for
    assert [end.state for end in kept.ends] == ["finished"]


def test_a_tracker_that_hangs_holds_nothing_up(run: RunFolder) -> None:
    free = threading.Event()
    hangs, kept = Kept(lambda step: free.wait(60) and None), Kept()
    process = Process(run, hangs, kept, patience=1.5)
    process.train(1, 2, 3)
    finished(run)
    process.tracking.close()
    assert kept.steps == {"run-1": [1, 2, 3]}
    assert hangs.steps == {"run-1": []}
    assert process.told()[-1] == (
        "warning",
        "kept-0 did not take everything in 2 s. What it lacks is in the run's files, and is sent when the "
        f"run is taken up again, also where it is finished: {run.resume}",
    )
    free.set()
    process.couriers[0].wait(60)
    assert hangs.steps == kept.steps


def test_what_was_refused_before_it_began_is_shown_nowhere(tmp_path: Path) -> None:
    run, kept = run_folder(tmp_path / "run"), Kept()
    run.events.replace([])
    Process(run, kept).tracking.close()
    assert kept.abouts == []
    assert not (run.path / FILE).exists()
