"""The report of a run that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import make
from refine_rl.errors import GuardStop, Interrupted, MachineError
from refine_rl.pipeline.on_record import on_record
from refine_rl.pipeline.renewal import RenewedReport
from refine_rl.progress import Quiet
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings.file import settings_from_dict


@dataclass
class Renders:
    """Stands for the page: each takes `cost` seconds of a clock that stands still but for what is added."""

    cost: float = 1.0
    now: float = 0.0
    made: int = 0

    def __call__(self, run: RunFolder) -> str:
        self.now += self.cost
        self.made += 1
        return f"report {self.made}"

    def clock(self) -> float:
        return self.now


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> Renders:
    found = Renders()
    monkeypatch.setattr("refine_rl.pipeline.renewal.render", found)
    return found


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", settings_from_dict({"task": "Be brief."}, tmp_path))


@pytest.fixture
def journal(run: RunFolder, renders: Renders) -> Journal:
    return Journal(run, Quiet(), RenewedReport(run, clock=renders.clock))


def test_it_is_there_from_the_first_validation_on(run: RunFolder, journal: Journal) -> None:
    journal.stage("Training")
    assert not run.report.exists()
    journal.kept(0)
    assert run.report.read_text() == "report 1"
    assert [(line["stage"], line["step"]) for line in run.times()] == [("report", 0)]


def test_it_is_renewed_for_a_fiftieth_of_the_time(journal: Journal, renders: Renders) -> None:
    made = []
    for step in range(1, 1001):  # steps of a second, each validated
        renders.now += 1.0
        before = renders.made
        journal.step(make.metrics(step), 1000)
        journal.kept(step)
        if renders.made > before:
            made.append(step)
    assert made[:3] == [1, 99, 148]
    assert renders.made * renders.cost / renders.now <= 0.02


def test_a_dear_report_is_renewed_less_often(journal: Journal, renders: Renders) -> None:
    renders.cost = 10.0
    for step in range(1, 1001):
        renders.now += 1.0
        journal.kept(step)
    assert renders.made == 2  # the first, and after 1,000 seconds
    assert renders.now == 1020.0


def test_what_was_due_and_too_dear_is_made_up_for(run: RunFolder, journal: Journal, renders: Renders) -> None:
    journal.kept(0)
    journal.kept(10)
    assert renders.made == 1
    renders.now += 200.0
    journal.step(make.metrics(1), 1000)
    assert renders.made == 2
    renders.now += 200.0
    journal.step(make.metrics(2), 1000)
    assert renders.made == 2  # nothing was due


def test_without_a_validation_it_is_there_after_some_steps(journal: Journal, renders: Renders) -> None:
    for step in range(1, 12):
        renders.now += 1.0
        journal.step(make.metrics(step), 1000)
        assert renders.made == (step >= 10)


def test_where_it_fails_that_is_said_once_and_the_old_one_stays(
    run: RunFolder, journal: Journal, renders: Renders, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.kept(0)

    def broken(run: RunFolder) -> str:
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr("refine_rl.pipeline.renewal.render", broken)
    for step in (1, 2):
        renders.now += 1000.0
        journal.kept(step)
    assert [e["text"] for e in run.events() if e["kind"] == "warning"] == [
        "RenewedReport could not show what the run tells: ZeroDivisionError: of the page"
    ]
    assert run.report.read_text() == "report 1"


@pytest.mark.parametrize(
    "stop", [GuardStop("nan", "No number.", "Less."), Interrupted(), MachineError("Down.")]
)
def test_what_stops_a_run_leaves_the_report_of_that_moment(
    run: RunFolder, stop: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refine_rl.pipeline.on_record.render", lambda run: f"{len(run.metrics())} steps")
    run.metrics.append(make.metrics(1))

    def stopped() -> None:
        with on_record(run, Journal(run, Quiet())):
            raise stop

    with pytest.raises(type(stop)) as raised:
        stopped()
    assert raised.value is stop
    assert run.report.read_text() == "1 steps"

    def broken(run: RunFolder) -> str:
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr("refine_rl.pipeline.on_record.render", broken)
    with pytest.raises(type(stop)) as raised:
        stopped()
    assert raised.value is stop  # what stopped it is the news
    assert run.report.read_text() == "1 steps"
    assert run.events()[-1]["text"] == "The report could not be made: ZeroDivisionError: of the page"


def test_who_interrupts_before_the_first_step_does_not_wait_for_a_report(run: RunFolder) -> None:
    def stopped() -> None:
        with on_record(run, Journal(run, Quiet())):
            raise Interrupted

    with pytest.raises(Interrupted):
        stopped()
    assert not run.report.exists()
