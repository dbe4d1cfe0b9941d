from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from make import comparison, estimate, event
from refine_rl.llm.client import Call
from refine_rl.report.asked import asked, bills, summary
from refine_rl.report.data import (
    Measure,
    best_step,
    cut,
    facts,
    measures,
    settings_table,
    time_spent,
    time_table,
)
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.types import Contrast


def test_rows_of_the_comparison_keep_their_order_and_find_their_axis() -> None:
    def contrast(low: float, high: float) -> Contrast:
        middle = (low + high) / 2
        same = estimate(middle, low, high)
        return Contrast(base=same, tuned=same, difference=estimate(0, 0, 0))

    details = {
        "component:style": contrast(0.2, 0.4),
        "success": contrast(0, 1),
        "component:overlong": contrast(-0.75, -0.25),
        "component:count": contrast(2.0, 4.0),
        "greedy": contrast(0.5, 0.6),
    }
    rows = measures(comparison("better", estimate(0.6, 0.5, 0.7), details=details))
    assert [(r.label, r.component, r.low, r.high) for r in rows] == [
        ("Reward, sampled answers", False, 0.0, 1.0),
        ("Reward, greedy answer", False, 0.0, 1.0),
        ("Full successes, sampled", False, 0.0, 1.0),
        ("style", True, 0.0, 1.0),
        ("overlong", True, -0.75, 0.0),
        ("count", True, 0.0, 4.0),
    ]
    assert rows[4].place(-0.25) == "66.67%"
    assert rows[5].width(rows[5].contrast.base) == "50.00%"


def test_an_axis_has_a_width_even_where_everything_is_zero() -> None:
    nothing = estimate(0, 0, 0)
    row: Measure = measures(comparison("not better", nothing, base=nothing, tuned=nothing))[0]
    assert (row.low, row.high, row.place(0.0)) == (0.0, 1.0, "0.00%")


def test_long_texts_are_cut_and_the_cut_is_said() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcdef", 2) == "ab […] (4 more characters in the run’s files)"


def test_time_is_added_up_and_the_rest_is_named() -> None:
    one = {"seconds": {"sample": 1.0, "score": 0.5, "train": 2.0, "total": 4.0}}
    assert time_spent([one, one]) == {"sample": 2.0, "score": 1.0, "train": 4.0, "other": 1.0}
    assert time_spent([]) == {}


def test_the_table_of_times_by_hand() -> None:
    one = {"seconds": {"sample": 1.0, "score": 0.0, "train": 2.0, "total": 4.0}}
    times = [
        {"stage": "prepare", "step": None, "seconds": 3.0},
        {"stage": "validation", "step": 0, "seconds": 2.0},
        {"stage": "validation", "step": 2, "seconds": 3.0},
        {"stage": "elsewhere", "step": None, "seconds": 4.0},
    ]
    rows = [(r.label, r.times, r.seconds, r.share, r.each) for r in time_table([one, one], times)]
    assert rows == [
        ("Steps: sampling", 2, 2.0, 0.1, "1.0 s"),
        ("Steps: training", 2, 4.0, 0.2, "2.0 s"),
        ("Steps: the rest", 2, 2.0, 0.1, "1.0 s"),
        ("Loading and preparing", 1, 3.0, 0.15, ""),
        ("Validation", 2, 5.0, 0.25, "2.5 s"),
        ("elsewhere", 1, 4.0, 0.2, ""),
    ]
    assert time_table([], []) == []


def test_the_last_best_checkpoint_counts() -> None:
    assert best_step([event("best", step=10), event("best", step=30), event("finished")]) == 30
    assert best_step([event("finished")]) is None


def test_facts_come_from_the_files(run: RunFolder, make_run: Callable[..., RunFolder], tmp_path: Any) -> None:
    lines = facts(run, run.settings(), run.metrics(), 60)
    assert lines["Model"] == "tiny (LoRA rank 16, alpha 32)"
    assert lines["Prompts"] == "40 train, 8 validation, 64 held-out"
    assert lines["Training"] == "60 of 120 steps, 8 prompts × 8 completions each"
    assert lines["Checkpoint"].startswith("step 60")
    assert "LLM calls" not in lines
    paid = make_run(tmp_path / "paid")
    for cost in (0.25, 0.5, None):
        paid.calls.append(call(cost))
    assert facts(paid, paid.settings(), [], None)["LLM calls"] == "$0.75 and 1 call of unknown cost"


def call(cost: float | None, *, outcome: str = "ok", purpose: str = "judge") -> Call:
    return Call(
        purpose=purpose,
        endpoint="mine",
        model="<b>judge</b>",
        tokens_in=None if cost is None else 100,
        tokens_out=None if cost is None else 20,
        cost_usd=cost,
        seconds=1.0,
        outcome=outcome if cost is not None else "timeout",
    )


def test_what_was_asked_is_worked_out_from_the_ledger(
    make_run: Callable[..., RunFolder], tmp_path: Any
) -> None:
    run = make_run(tmp_path / "run")
    assert asked(run, run.events(), []) is None
    calls = [call(0.25), call(None), call(0.0, outcome="cached"), call(0.1, purpose="writer")]
    for one in calls:
        run.calls.append(one)
    for step, text in ((0, "empty  0.00"), (10, "empty  0.10"), (20, "empty  <i>0.20</i>")):
        run.event("anchors", "judges", text, step)
    run.calls.append(
        dataclasses.replace(call(0.1, purpose="writer"), outcome="unusable", extra={"error": "x"})
    )
    run.calls.append(dataclasses.replace(call(0.1, purpose="writer"), outcome="cut", extra={"error": "x"}))
    found = asked(run, run.events(), [])
    assert found is not None
    judge, writer = found.bills
    assert (judge.calls, judge.cached, judge.tokens_in, judge.tokens_out) == (2, 1, 100, 20)
    assert (judge.dollars, judge.unknown, dict(judge.failed)) == (0.25, 1, {"timeout": 1})
    assert (judge.unusable, writer.unusable) == (0, 2)
    assert dict(writer.failed) == {"unusable": 1, "cut": 1}
    assert (writer.purpose, writer.model) == ("writer", "mine/<b>judge</b>")
    assert writer.dollars == pytest.approx(0.3)
    assert found.total == "$0.55 and 1 call of unknown cost"
    assert summary(found.bills).endswith("; 1 reply from the cache; 2 replies that could not be used")
    (first, one), (newest, two) = found.anchors
    assert re.fullmatch(r"Before training \(\d{4}-\d\d-\d\d \d\d:\d\d UTC\)", first)
    assert newest.startswith("At step 20 (")
    assert (one, two) == ("empty  0.00", "empty  <i>0.20</i>")
    page = render(run)
    assert "&lt;b&gt;judge&lt;/b&gt;" in page
    assert "&lt;i&gt;0.20&lt;/i&gt;" in page
    assert "<b>judge" not in page


def test_after_a_step_back_only_what_stands_is_said(
    make_run: Callable[..., RunFolder], tmp_path: Any
) -> None:
    run = make_run(tmp_path / "run", steps=0)
    run.calls.append(call(0.25))

    def looked(step: int, text: str) -> None:
        run.event("anchors", "judges", text, step)
        run.event("best", "validation", text, step)

    def said() -> list[str]:
        found = asked(run, run.events(), [])
        assert found is not None
        return [f"{when.split(' (')[0]}: {text}" for when, text in found.anchors]

    for step in (0, 10, 20):
        looked(step, "first")
    run.rewind(0)
    assert said() == []
    assert best_step(run.events()) is None
    looked(0, "second")
    assert said() == ["Before training: second"]
    looked(10, "second")
    run.write_checkpoint(10, lambda folder: None)
    looked(20, "second")
    run.rewind(10)
    assert said() == ["Before training: second", "At step 10: second"]
    assert best_step(run.events()) == 10
    looked(15, "third")
    looked(15, "fourth")  # the process was killed before its validation was on record
    assert said() == ["Before training: second", "At step 15: fourth"]
    assert [e["text"] for e in run.events() if e["kind"] == "rewound"] == [
        "Back to the start of training; what came later was forgotten.",
        "Back to step 10; what came later was forgotten.",
    ]


def test_what_was_told_of_steps_gone_back_on_is_marked(
    make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", steps=4)
    for step in (2, 3):
        run.event("warning", "slow", f"It was slow at {step}.", step)
    run.event("note", "done_early", "Every answer earns the full reward: training ended.", 3)
    settings = run.settings()
    assert "training ended" in facts(run, settings, run.metrics(), 10)["Training"]
    run.write_checkpoint(2, lambda folder: None)
    run.rewind(2)
    assert "training ended" not in facts(run, settings, run.metrics(), 10)["Training"]
    run.event("warning", "slow", "It is slow again at 3.", 3)
    page = render(run)
    before = {text: page.split(text)[:-1] for text in ("slow at 2.", "was slow at 3.", "slow again at 3.")}
    marks = {text: ["gone back on" in part.rpartition("<tr")[2] for part in before[text]] for text in before}
    assert marks == {"slow at 2.": [False] * 2, "was slow at 3.": [True] * 2, "slow again at 3.": [False] * 2}
    drifting = settings.evaluate.model_copy(update={"on_drift": "rollback"})
    by_eye = facts(run, settings.model_copy(update={"evaluate": drifting}), run.metrics(), 10)
    assert by_eye["Checkpoint"] == "step 10, chosen by the other eye on the validation prompts"


def test_where_a_drift_led_back_stands_in_the_charts_until_that_is_gone_back_on(
    make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", steps=4)
    assert 'class="mark top' not in render(run)
    run.write_checkpoint(2, lambda folder: None)
    run.event("note", "gone_back", "Apart: training went back to step 2.", 2)
    run.rewind(2)
    page = render(run)
    assert page.count('class="mark top') == page.count(">went back to step 2</span>") > 1
    assert page.count('class="back"') == page.count('class="mark top')
    assert "The broken line marks step 2, to which a drift led training back" in page
    run.rewind(0)
    assert 'class="mark top' not in render(run)


def test_every_setting_in_force_is_listed(run: RunFolder) -> None:
    table = settings_table(run.settings())
    assert table["grpo"]["steps"] == "120"
    assert table["grpo"]["clip_high"] == "not set"
    assert '"keeps"' in table["reward"]["rules"]
    assert "task" not in table[""]


def test_replies_from_the_cache_alone_cost_nothing_and_unknown_costs_no_number() -> None:
    line = {"purpose": "judge", "endpoint": "e", "model": "m", "tokens_in": 0, "tokens_out": 0}
    (cached,) = bills([line | {"cost_usd": 0.0, "outcome": "cached"}])
    (unknown,) = bills([line | {"cost_usd": None, "outcome": "ok"}])
    assert (cached.dollars, unknown.dollars, unknown.unknown) == (0.0, None, 1)
    assert summary([cached]) == "0, $0; 1 reply from the cache"
    assert summary([unknown]) == "1, cost unknown"
