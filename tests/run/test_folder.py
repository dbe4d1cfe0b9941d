"""The run's folder: what goes in comes out, and no moment of a kill leaves it broken."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import make
from refine_rl.errors import UserError
from refine_rl.llm.client import Call
from refine_rl.llm.ledger import already_spent
from refine_rl.run import RunFolder
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import (
    Comparison,
    Contrast,
    Estimate,
    Example,
    Forgetting,
    Group,
    Other,
    Outcome,
    Part,
    Prompt,
    Score,
    Segment,
    StepMetrics,
    Trajectory,
    Variety,
)


def new(path: Path) -> RunFolder:
    task = {"task": "Be brief.", "reward": {"rules": [{"rule": "words", "max": 3}]}}
    return RunFolder.create(path, settings_from_dict(task, path.parent))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new(tmp_path / "run")


def prompt(number: int = 1, text: str = "Say hi.", **data: Any) -> Prompt:
    known = {"system": "Be kind.", "facets": {"kind": "greeting"}, "origin": f"prompts.jsonl:{number}"}
    return make.prompt(f"p{number:04d}", text, **known, **data)


def trajectory(of: Prompt, member: int = 0, text: str = "Hi!") -> Trajectory:
    segments = (
        Segment(token_ids=(1, 2, 3), trainable=False),
        Segment(token_ids=(7, 8 + member), trainable=True, logprobs=(-0.1, -1 / 3)),
        Segment(token_ids=(4,), trainable=False),
        Segment(token_ids=(9,), trainable=True, logprobs=(-2.5e-7,)),
    )
    stop = "length" if member else "stop"
    return make.trajectory(of, text, member=member, segments=segments, stop=stop)


def group(step: int, number: int = 1, text: str = "Hi!") -> Group:
    p = prompt(number)
    return make.group(
        p,
        Score(value=1 / 3, breakdown={"words": 1 / 3}, explanation=text),
        Score(value=0.0, status="invalid", breakdown={"words": 0.0}),
        None,
        step=step,
        trajectories=[trajectory(p, member, text) for member in range(3)],
        advantages=(0.70710678118, -0.70710678118, None),
    )


def metrics(step: int) -> StepMetrics:
    odd = {"reward_mean": 1 / 3, "reward_std": None, "loss": None, "kl": 1e-9}
    return make.metrics(step, **odd, components={"words": 0.1}, seconds={"sample": 0.1, "total": 0.2})


# -- round trips ------------------------------------------------------------------------------


def test_groups_come_back_as_they_were(run: RunFolder) -> None:
    run.save_prompts([prompt(1), prompt(2)])
    run.append_groups([group(1, 1), group(1, 2)])
    run.append_groups([group(2, 2)])
    assert run.recorded_steps() == {1: [group(1, 1), group(1, 2)], 2: [group(2, 2)]}
    assert run.recorded_steps(after=1) == {2: [group(2, 2)]}
    line = next(run.groups.lines())
    member = line["trajectories"][0]
    assert (line["step"], line["prompt_id"]) == (1, "p0001")
    assert (member["tokens"], member["reward"], member["status"]) == ([7, 8, 4, 9], 1 / 3, "scored")
    assert (member["stop_reason"], member["advantage"]) == ("stop", 0.70710678118)
    assert line["trajectories"][2]["reward"] is None


def test_outcomes_come_back_as_they_were(run: RunFolder) -> None:
    p = prompt(3, answer=[1, {"a": None}])
    sampled = ((trajectory(p, 0), Score(value=0.5)), (trajectory(p, 1), Score.missing("gone")))
    outcomes = [Outcome(prompt=p, sampled=sampled, greedy=(trajectory(p, 0, "Hello."), Score(value=1.0)))]
    run.save_prompts([p])
    assert run.outcomes("base") is None
    run.save_outcomes("base", outcomes)
    assert run.outcomes("base") == outcomes
    assert run.outcomes("tuned") is None


def test_the_comparison_comes_back_as_it_was(run: RunFolder) -> None:
    e = Estimate(mean=1 / 3, ci95=(0.1, 0.7))
    comparison = Comparison(
        prompts=9,
        base=e,
        tuned=e,
        difference=e,
        verdict="not better",
        examples=(
            Example(prompt="a", base="b", tuned="c", base_reward=None, tuned_reward=1.0, facets={"f": "g"}),
        ),
        details={"greedy": Contrast(base=e, tuned=e, difference=e)},
        samples=4,
        prompts_missing=1,
        scores_missing={"base": 2, "tuned": 0},
        facets={"f": {"g": Part(prompts=9, base=e, tuned=e, difference=e, chance=0.01, holds=True)}},
        forgetting=Forgetting(
            texts=60,
            instructions=20,
            perplexity=Contrast(base=e, tuned=e, difference=e),
            kl=e,
            same=e,
            ended=Contrast(base=e, tuned=e, difference=e),
            tokens=Contrast(base=e, tuned=e, difference=e),
        ),
        detectable=0.25,
        matters=0.1,
        prompts_needed={"observed": 70, "matters": None},
        curves={"best": (Contrast(base=e, tuned=e, difference=e), Contrast(base=e, tuned=e, difference=e))},
        combinations={"unseen": Part(prompts=2, base=e, tuned=e, difference=e)},
        variety={"base": Variety(distinct_share=0.5, openings={"So": 0.25})},
        others={
            "sft": Other(
                mean=0.25,
                ci95=(0.1, 0.5),
                tuned_minus=e,
                details={"greedy": Contrast(base=e, tuned=e, difference=e)},
            )
        },
    )
    assert run.comparison() is None
    run.save_comparison(comparison)
    assert run.comparison() == comparison
    nothing = dataclasses.replace(
        comparison, base=None, tuned=None, difference=None, verdict="not possible", prompts=0
    )
    run.save_comparison(nothing)
    assert run.comparison() == nothing
    assert '"difference": null' in (run.path / "comparison.json").read_text()


def test_a_comparison_of_an_older_version_is_read(run: RunFolder) -> None:
    e = {"mean": 0.5, "ci95": [0.25, 0.75]}
    record = {"prompts": 9, "base": e, "tuned": e, "difference": e, "verdict": "not better", "examples": []}
    (run.path / "comparison.json").write_text(json.dumps({**record, "details": {}, "samples": 4}))
    found = run.comparison()
    assert found is not None
    assert (found.facets, found.combinations, found.variety, found.scores_missing) == ({}, {}, {}, {})


def test_metrics_prompts_and_settings_come_back(run: RunFolder) -> None:
    run.metrics.append(metrics(1))
    run.metrics.append(metrics(2))
    assert list(run.metrics.read()) == [metrics(1), metrics(2)]
    prompts = [prompt(1, "ä\n\u2028漢", limit=3), dataclasses.replace(prompt(2), split="held_out")]
    run.save_prompts(prompts)
    assert run.prompts() == prompts
    assert run.settings().task == "Be brief."
    assert run.settings().folder == run.path.parent.resolve()
    assert {"python", "torch", "refine-rl"} <= run.config.versions().keys()


def paired(text: str) -> str:
    """Without two lone surrogates that make a pair: JSON cannot tell them from the character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


ODD = ["\ud83d", "a\udcffb", "🙂", "\x00", "\n\r\u2028\u2029\x85", "\\ud83d", "\\\ud83d", '"', "\ufeff", ""]
odd_text = (st.text(st.characters(), max_size=12) | st.sampled_from(ODD)).map(paired)


@settings(max_examples=25, deadline=None)
@given(odd_text, odd_text, st.floats(allow_nan=False, allow_infinity=False))
def test_odd_text_goes_through(text: str, question: str, value: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = new(Path(folder) / "run")
        p = prompt(1, question, source=text)
        score = Score(value=value, breakdown={text: value}, explanation=text)
        one = make.group(p, score, trajectories=[trajectory(p, 0, text)], advantages=[value])
        run.save_prompts([p])
        run.append_groups([one])
        run.save_outcomes(
            "base", [Outcome(prompt=p, sampled=(), greedy=(one.trajectories[0], one.scores[0]))]
        )
        run.event("note", "odd", text)
        assert run.prompts() == [p]
        assert run.recorded_steps() == {1: [one]}
        outcomes = run.outcomes("base")
        assert outcomes is not None
        assert outcomes[0].greedy == (one.trajectories[0], one.scores[0])
        assert run.events()[-1]["text"] == text
        assert len((run.path / "groups.jsonl").read_bytes().split(b"\n")) == 2  # one line, whatever is in it


# -- after a kill -----------------------------------------------------------------------------


def test_repair_keeps_whole_steps_and_whole_lines(run: RunFolder) -> None:
    run.save_prompts([prompt(1), prompt(2)])
    run.append_groups([group(1, 1), group(1, 2)])
    run.append_groups([group(2, 1), group(2, 2)])
    run.metrics.append(metrics(1))
    run.event("started", "run", "here")
    whole = (run.path / "groups.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (run.path / "groups.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2')
    (run.path / "checkpoints" / ".step-000002.77").mkdir(parents=True)
    (run.path / "checkpoints" / ".old-1").mkdir()

    assert [m["step"] for m in run.metrics()] == [1]  # a reader needs no repair
    run.repair()
    assert (run.path / "groups.jsonl").read_bytes() == b"".join(lines[:2])
    assert [m["step"] for m in run.metrics()] == [1]
    assert [e["kind"] for e in run.events()] == ["started"]
    assert list((run.path / "checkpoints").iterdir()) == []
    run.append_groups([group(2, 1), group(2, 2)])
    assert (run.path / "groups.jsonl").read_bytes() == whole


def test_the_time_of_a_stage_is_on_record_however_it_ends(run: RunFolder) -> None:
    with run.timed("prepare"):
        pass
    with pytest.raises(ValueError, match="stop"), run.timed("validation", 4):
        raise ValueError("stop")
    assert [(t["stage"], t["step"]) for t in run.times()] == [("prepare", None), ("validation", 4)]
    assert all(t["seconds"] >= 0 for t in run.times())
    run.rewind(0)  # what was spent stays spent
    assert len(run.times()) == 2


def test_repairing_a_sound_run_changes_no_byte(run: RunFolder) -> None:
    run.save_prompts([prompt(1)])
    run.append_groups([group(1, 1, "\ud83d ä 🙂\u2028")])
    run.metrics.append(metrics(1))
    before = {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()}
    run.repair()
    assert {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()} == before


KILLED = Call(
    purpose="judge",
    endpoint="e",
    model="m",
    tokens_in=None,
    tokens_out=None,
    cost_usd=None,
    seconds=0.0,
    outcome="killed",
    extra={"estimated_usd": 0.25},
)


def test_calls_that_were_under_way_count_as_spent(run: RunFolder) -> None:
    for ticket in (1, 2, 3, 4):
        run.under_way.sent(ticket, dataclasses.replace(KILLED, about=f"p{ticket}"))
    for ticket in (3, 1):
        run.calls.append(dataclasses.replace(KILLED, outcome="ok", cost_usd=0.5, extra={}))
        run.under_way.done(ticket)
    run.under_way.sent(5, dataclasses.replace(KILLED, extra={}))  # of no known price
    (hidden,) = run.path.glob(".*.jsonl")
    with hidden.open("ab") as file:
        file.write(b'{"ticket": 6, "call": {"purp')  # not sent yet
    with (run.path / "llm_calls.jsonl").open("ab") as file:
        file.write(b'{"purpose": "ju')
    assert already_spent(run.calls()) == (1.0, 0)
    run.repair()
    assert already_spent(run.calls()) == (1.5, 3)
    assert [c["outcome"] for c in run.calls()] == ["ok", "ok", "killed", "killed", "killed"]
    assert [c["about"] for c in run.calls()[2:]] == ["p2", "p4", ""]
    assert not hidden.exists()
    run.repair()
    run.under_way.sent(1, KILLED)  # tickets begin anew in each process
    run.under_way.done(1)
    run.repair()
    assert len(run.calls()) == 5


def test_what_was_under_way_goes_when_all_came_back(run: RunFolder) -> None:
    with run.writing():
        run.under_way.sent(1, KILLED)
        run.under_way.done(1)
    assert not list(run.path.glob(".*.jsonl"))
    with run.writing():
        run.under_way.sent(1, KILLED)
    assert len(list(run.path.glob(".*.jsonl"))) == 1
    assert run.calls() == []
    run.repair()
    assert len(run.calls()) == 1


def test_the_shelf_of_the_quiz_keeps_the_newest(run: RunFolder) -> None:
    shelf = run.quiz
    assert shelf.get("a") is None
    shelf.put("a", {"n": 1})
    shelf.put("b", {"n": 2})
    shelf.put("a", {"n": 3})
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c")) == ({"n": 3}, {"n": 2}, None)
    with (run.path / "quiz.jsonl").open("ab") as file:
        file.write(b'{"key": "a", "ma')
    assert RunFolder(run.path).quiz.get("a") == {"n": 3}
    run.repair()
    run.rewind(0)
    again = RunFolder(run.path).quiz
    again.put("c", {"n": 4})
    assert [RunFolder(run.path).quiz.get(key) for key in "abc"] == [{"n": 3}, {"n": 2}, {"n": 4}]


def test_a_checkpoint_is_there_whole_or_not_at_all(run: RunFolder) -> None:
    def broken(folder: Path) -> None:
        (folder / "weights").write_text("half")
        assert run.checkpoints() == []
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        run.write_checkpoint(3, broken)
    assert run.checkpoints() == []
    assert not list(run.path.glob("checkpoints/step-*"))
    run.write_checkpoint(3, lambda folder: (folder / "weights").write_text("whole") and None)
    assert run.checkpoints() == [3]
    assert (run.checkpoint(3) / "weights").read_text() == "whole"
    run.repair()
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000003"]


def test_a_model_is_there_whole_or_not_at_all(run: RunFolder) -> None:
    def broken(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        run.write_model(broken)
    assert not run.model.exists()
    for text in ("first", "second"):

        def write(folder: Path, text: str = text) -> None:
            (folder / "model.safetensors").write_text(text)

        run.write_model(write)
        assert [p.read_text() for p in run.model.iterdir()] == [text]


@pytest.mark.parametrize(
    ("newest", "best", "left"),
    [(1, 2, [2, 9]), (2, 9, [7, 9]), (3, 2, [2, 4, 7, 9]), (1, None, [9]), (9, 2, [2, 4, 7, 9])],
)
def test_the_best_and_the_last_are_never_deleted(
    run: RunFolder, newest: int, best: int | None, left: list[int]
) -> None:
    for step in (2, 4, 7, 9):
        run.write_checkpoint(step, lambda folder: (folder / "x").touch())
    run.prune_checkpoints(keep_newest=newest, keep={best} if best else set())
    assert run.checkpoints() == left
    assert not list((run.path / "checkpoints").glob(".*"))


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, 30), min_size=1), st.integers(0, 5), st.data())
def test_pruning_keeps_what_it_must(steps: set[int], newest: int, data: st.DataObject) -> None:
    best = data.draw(st.sampled_from(sorted(steps)))
    with tempfile.TemporaryDirectory() as folder:
        run = new(Path(folder) / "run")
        for step in steps:
            run.write_checkpoint(step, lambda where: (where / "x").touch())
        run.prune_checkpoints(keep_newest=newest, keep={best})
        assert {best, max(steps)} <= set(run.checkpoints()) <= steps
        assert set(sorted(steps)[-newest:] if newest else []) <= set(run.checkpoints())


# -- life -------------------------------------------------------------------------------------


def test_the_first_free_name_is_claimed(tmp_path: Path) -> None:
    def claimed() -> Path:
        run = RunFolder.claim_free(tmp_path, "a")
        run.let_go()
        return run.path

    assert claimed() == tmp_path / "a"
    assert claimed() == tmp_path / "a"  # a folder in which no run began is free
    (tmp_path / "a" / "x").touch()
    (tmp_path / "a-2").touch()
    assert claimed() == tmp_path / "a-3"


def test_a_folder_with_something_in_it_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").touch()
    (tmp_path / "file").touch()
    for name in ("x", "file"):
        with pytest.raises(UserError, match="already exists"):
            new(tmp_path / name)
    with pytest.raises(UserError, match="not a run"):
        RunFolder.open(tmp_path / "x")


def test_abandoned_only_before_it_began(run: RunFolder) -> None:
    run.save_prompts([prompt(1)])
    run.abandon()
    assert run.prompts() == [prompt(1)]
    (run.path / "prompts.jsonl").unlink()
    run.under_way.sent(1, KILLED)
    run.abandon()
    assert run.path.exists()  # there is money in it
    run.under_way.done(1)
    with run.writing():
        pass
    run.abandon()
    assert not run.path.exists()


def test_abandoned_where_all_calls_came_back(run: RunFolder) -> None:
    run.under_way.sent(1, KILLED)
    run.under_way.done(1)
    run.abandon()
    assert not run.path.exists()


def test_a_second_process_is_locked_out(run: RunFolder) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom refine_rl.errors import UserError\n"
        "from refine_rl.run import RunFolder\n"
        "try:\n    with RunFolder.open(Path(sys.argv[1])).writing(): print('free')\n"
        "except UserError as error: print(error)\n"
    )

    def other() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True
        )
        return done.stdout

    with run.writing():
        assert "being written by another process" in other()
    assert other() == "free\n"


def test_no_key_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "very-secret-7261")
    run = new(tmp_path / "run")
    run.save_prompts([prompt(1)])
    run.config.save(run.settings())
    run.event("started", "run", "here")
    assert all(b"very-secret-7261" not in p.read_bytes() for p in run.path.rglob("*") if p.is_file())


def test_saved_settings_keep_where_the_run_came_from(tmp_path: Path) -> None:
    task = {"task": "Be brief.", "reward": {"rules": [{"rule": "words", "max": 3}]}}
    run = RunFolder.create(tmp_path / "run", settings_from_dict(task, tmp_path), python_rewards=["mine"])
    versions = run.config.versions()
    changed = run.settings().model_copy(update={"task": "Be long."})
    run.config.save(changed)
    again = RunFolder.open(run.path)
    assert (again.settings().task, again.settings().folder) == ("Be long.", tmp_path.resolve())
    assert (again.config.python_rewards(), again.config.versions()) == (["mine"], versions)


def test_a_reader_never_sees_half_a_replaced_file(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_report("first")

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save_report("second, much longer")
    assert (run.path / "report.html").read_text() == "first"


def test_lines_are_json_that_any_reader_takes(run: RunFolder) -> None:
    run.metrics.append(metrics(1))
    not_finite: Callable[[str], Any] = pytest.fail
    json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=not_finite)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.metrics.append(dataclasses.replace(metrics(2), loss=float("nan")))
    assert len(run.metrics()) == 1
