"""How a run stands, from its files: what a watching person is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import make
from refine_rl.llm.client import Call
from refine_rl.report.now import Now, now_of, standing_of
from refine_rl.run import RunFolder
from refine_rl.run.follow import Watched
from refine_rl.run.lock import Hold, hold
from refine_rl.settings import Settings

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()  # of make.event
RESUME = "refine train --resume runs/a"
LOST = Hold(pid=1, where="another machine", began="1", since=AT)


@pytest.fixture
def mine(tmp_path: Path) -> Hold:
    """A hold of a process that lives: this one."""
    run = RunFolder(tmp_path / "held")
    with RunFolder.claim(run.path).writing():
        found = hold(run.path)
    assert found is not None
    return found


def told(*kinds: str, hold: Hold | None = None, silent: float = 10.0) -> tuple[str, str, str]:
    events = [make.event(kind, "budget" if kind == "guard" else kind, f"what {kind} says") for kind in kinds]
    found = standing_of(events, hold, silent=silent, patience=120.0, resume=RESUME)
    return found.state, found.said, found.more


def test_a_run_whose_process_lives_goes_on(mine: Hold) -> None:
    held = replace(mine, since=AT - 5)
    assert told(hold=held) == ("running", "Running", "")
    assert told("started", hold=held) == ("running", "Running", "")
    long = "Nothing was written for 6 min; its process is there."
    assert told("started", "guard", "resumed", hold=held, silent=400) == ("running", "Running", long)


def test_an_end_on_record_is_the_end(mine: Hold) -> None:
    for held in (None, LOST, replace(mine, since=AT - 5), replace(mine, began="1")):  # it writes its report
        assert told("started", "finished", hold=held) == ("finished", "Finished", "")
        said = "Stopped by the guard “budget”"
        assert told("started", "guard", hold=held) == ("stopped", said, "what guard says")
        state, _, more = told("interrupted", "warning", hold=held)
        assert (state, more) == ("interrupted", f"Go on with: {RESUME}")
        state, _, more = told("failure", hold=held)
        assert (state, more) == ("failed", f"what failure says Go on with: {RESUME}")


def test_taken_up_again_it_goes_on_before_it_says_so(mine: Hold) -> None:
    again = replace(mine, since=AT + 30)
    for end in ("guard", "interrupted", "failure"):
        assert told(end, hold=again) == ("running", "Running", "A process has taken it up again.")
        assert told(end, hold=replace(again, began="1"))[0] != "running"  # and died at once
    state, _, more = told("finished", hold=again)
    assert state == "finished"
    assert more == "A process is at work in its folder again: an evaluation, for one."


def test_a_process_that_is_gone_without_a_word(mine: Hold) -> None:
    gone = replace(mine, began="1")
    state, said, more = told("started", hold=gone, silent=65)
    assert (state, said) == ("broken off", "Broken off")
    assert "killed, ended by an error, or its machine went down. Nothing was written for 1 min." in more
    assert more.endswith(RESUME)
    assert told("started", "interrupted", "resumed", hold=gone)[0] == "broken off"
    assert told("started")[:2] == ("broken off", "Broken off")  # let go of, without a word
    assert told("finished", "rewound")[0] == "broken off"
    assert told()[0] == "not begun"


def test_where_the_process_cannot_be_seen_silence_alone_is_told() -> None:
    assert told("started", hold=LOST, silent=119)[0] == "running"
    state, said, more = told("started", hold=LOST, silent=7300)
    assert (state, said) == ("not heard of", "Not heard of")
    assert more.startswith("Nothing was written for 2 h 1 min, and its process cannot be seen from here.")


def watched(path: Path) -> Now:
    return now_of(Watched(path))


def test_nothing_has_begun(tmp_path: Path) -> None:
    now = watched(tmp_path / "later")
    assert (now.name, now.standing.state, now.steps) == ("later", "not begun", 0)


def facts(now: Now) -> dict[str, str]:
    return {fact.name: fact.text for fact in now.facts}


@pytest.fixture
def fresh(tmp_path: Path) -> RunFolder:
    settings = {
        "task": "Be brief.",
        "model": {"name": "tiny"},
        "reward": {"rules": [{"rule": "words", "max": 5}]},
        "budget": {"dollars": 2.5},
        "grpo": {"steps": 4, "validate_every": 2},
    }
    return RunFolder.create(tmp_path / "run", Settings.model_validate(settings))


def look(step: int, mean: float, missing: int = 0) -> dict[str, Any]:
    reward = {"mean": mean, "ci95": [mean, mean]}
    return {"step": step, "reward": reward, "success": 0.0, "components": {}, "scores_missing": missing}


def call(dollars: float | None) -> Call:
    return Call(
        purpose="judge", endpoint="e", model="m", tokens_in=1, tokens_out=1, cost_usd=dollars, seconds=1.0,
        outcome="ok",
    )  # fmt: skip


def test_what_it_is_at_from_its_beginning_to_its_end(fresh: RunFolder) -> None:
    with fresh.writing():
        assert watched(fresh.path).doing == "preparing: the prompts, the judges, the model"
        fresh.save_prompts([make.prompt(0), make.prompt(1, split="held_out")])
        assert watched(fresh.path).doing == "the untrained model answers the held-out prompts"
        fresh.answers("base").replace([])
        fresh.validation.append(look(0, 0.25))
        now = watched(fresh.path)
        assert (now.doing, now.left) == ("", "")  # nobody knows yet how long a step takes
        assert facts(now) == {"Validation": "0.25 at step 0"}
        fresh.metrics.append(make.metrics(1, reward_mean=0.25, members_missing=2))
        fresh.metrics.append(make.metrics(2, reward_mean=0.5))
        fresh.validation.append(look(2, 0.75, missing=1))
        fresh.calls.append(call(0.5), call(0.25), call(None))
        fresh.event("warning", "length", "Completions became shorter.", 2)
        now = watched(fresh.path)
        assert (now.standing.said, now.doing, now.done, now.steps) == ("Running", "", 2, 4)
        assert facts(now) == {
            "Reward": "0.50 (step 1: 0.25)",
            "Validation": "0.75 at step 2 (untrained: 0.25)",
            "Missing scores": "3",
            "Spent on LLMs": "$0.75 and 1 call of unknown cost of $2.5",
        }
        assert [f.name for f in now.facts if f.loud] == ["Missing scores"]
        assert [e["name"] for e in now.warnings] == ["length"]
        fresh.metrics.append(make.metrics(3), make.metrics(4))
        assert watched(fresh.path).doing == "the tuned model answers the held-out prompts"
        fresh.answers("tuned").replace([])
        assert watched(fresh.path).doing == "ending: the comparison, the model, the report"
        fresh.event("finished", "finished", "better", 4)
        now = watched(fresh.path)
        assert (now.standing.said, now.doing, now.left, now.facts) == ("Finished", "", "", ())
    assert watched(fresh.path).standing.said == "Finished"


def test_training_that_ended_early_is_over(fresh: RunFolder) -> None:
    fresh.save_prompts([make.prompt(0)])
    with fresh.writing():
        fresh.metrics.append(make.metrics(1), make.metrics(2))
        fresh.event("note", "done_early", "Every answer earns the full reward.", 2)
        assert watched(fresh.path).doing == "the tuned model answers the held-out prompts"


def test_the_time_that_is_left_is_of_a_run_that_goes_on(fresh: RunFolder) -> None:
    fresh.save_prompts([make.prompt(0), make.prompt(1, split="held_out")])
    fresh.times.append({"stage": "base", "step": None, "seconds": 100.0})
    fresh.metrics.append(*(make.metrics(step, seconds={"total": 200.0}) for step in (1, 2)))
    stat = fresh.metrics.path.stat()
    run = Watched(fresh.path)
    with fresh.writing():
        assert now_of(run, at=stat.st_mtime).left == "about 8 min left"  # 2 steps, and the comparison
        assert now_of(run, at=stat.st_mtime + 190).left == "about 5 min left"
    assert now_of(run, at=stat.st_mtime + 5000).left == ""


def test_the_newest_warnings_come_first_and_the_rest_are_counted(fresh: RunFolder) -> None:
    for number in range(7):
        fresh.event("warning", f"w{number}", "text", number)
    fresh.event("note", "n", "no warning")
    fresh.event("guard", "budget", "The budget is used up.")
    now = watched(fresh.path)
    assert [e["name"] for e in now.warnings] == ["w6", "w5", "w4", "w3", "w2"]
    assert now.warnings_all == 7
    assert now.standing.said == "Stopped by the guard “budget”"
    fresh.event("resumed", "resumed", "Goes on.")
    assert [e["name"] for e in watched(fresh.path).warnings][:2] == ["budget", "w6"]


def test_patience_is_longer_where_steps_are(fresh: RunFolder) -> None:
    fresh.event("started", "started", "A new run.")
    fresh.metrics.append(make.metrics(1, seconds={"total": 600.0}))
    run = Watched(fresh.path)
    (run.path / ".lock").write_text(json.dumps(asdict(LOST)))
    heard = run.heard()
    assert heard is not None
    assert now_of(run, at=heard + 2999).standing.state == "running"
    assert now_of(run, at=heard + 3001).standing.state == "not heard of"


def sft_settings() -> Settings:
    return Settings.model_validate(
        {"task": "Imitate.", "model": {"name": "tiny"}, "sft": {"data": "file:pairs.jsonl"},
         "reward": {"rules": [{"rule": "words", "max": 5}]}}
    )  # fmt: skip


def sft_step(step: int, loss: float) -> dict[str, Any]:
    from refine_rl.types import SFTMetrics

    return {
        "metrics": SFTMetrics(
            step=step, loss=loss, validation_loss=None, tokens=10, targets=5, rows=2, epoch=0.1,
            learning_rate=1e-4, grad_norm=1.0, seconds={"train": 1.0, "total": 1.0},
        )
    }  # fmt: skip


def test_supervised_fine_tuning_alone_and_before(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "alone", sft_settings(), kind="sft")
    with run.writing():
        assert watched(run.path).doing == "preparing: the rows, the model"
        run.config.note(sft_steps=2)
        run.validation.append({"step": 0, "loss": 2.5, "perplexity": 12.0})
        run.metrics.append(sft_step(1, 2.25)["metrics"])
        now = watched(run.path)
        assert (now.doing, now.done, now.steps) == ("", 1, 2)
        assert facts(now) == {"Loss": "2.2500", "Validation loss": "2.5000 at step 0"}
        run.metrics.append(sft_step(2, 2.0)["metrics"])
        assert watched(run.path).doing == "ending: the model and its answers"
    both = RunFolder.create(tmp_path / "both", sft_settings())
    both.save_prompts([make.prompt(0)])
    with both.writing():
        assert watched(both.path).doing == "supervised fine-tuning first"
        RunFolder.create(both.sft.path, sft_settings(), kind="sft")
        both.sft.config.note(sft_steps=9)
        both.sft.metrics.append(sft_step(1, 2.0)["metrics"])
        assert watched(both.path).doing == "supervised fine-tuning first: step 1 of 9"
        both.sft.end("loss 2.0 -> 1.0", 9)
        assert watched(both.path).doing == "the untrained model answers the held-out prompts"


def test_a_finished_run_and_one_of_which_nobody_knows(
    run: RunFolder, make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    assert watched(run.path).standing.said == "Finished"
    going = make_run(tmp_path / "going", steps=5, compared=False)
    old = AT
    for file in going.path.iterdir():
        os.utime(file, (old, old))
    assert watched(going.path).standing.said == "Broken off"
