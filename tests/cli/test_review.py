"""refine review: what it prints, what it refuses, and which judge agrees with people."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refine_rl.cli.interrupt import StopNow
from refine_rl.pipeline.review import Review
from refine_rl.run import RunFolder

Refine = Callable[..., Any]
PRICES = "{short = {input = 1.0, output = 1.0}, long = {input = 1.0, output = 1.0}}"


@pytest.fixture
def run(trained: tuple[Path, SimpleNamespace], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def vote(run: Path, reviewer: str = "ada", votes: int = 6) -> int:
    """Somebody who takes the shorter answer; how many votes that were."""
    review = Review(RunFolder(run), reviewer, votes)
    while (item := review.state()["item"]) is not None:
        left, right = (len(item[side][-1]["content"]) for side in ("left", "right"))
        said = "tie" if left == right else "left" if left < right else "right"
        review.vote({"vote": said, "mark": item["mark"]})
    return len(review.pairs)


def test_the_page_is_served_until_ctrl_c_and_the_rest_is_told(
    refine: Refine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("refine_rl.cli.watch.introduce", lambda address, *rest: seen.append(address))

    def stop() -> None:
        with urllib.request.urlopen(seen[-1] + "state", timeout=60) as reply:
            seen.append(reply.read().decode())
        raise StopNow

    monkeypatch.setattr("refine_rl.cli.review.until_stopped", stop)
    done = refine("review", run, "--votes", "3", "--reviewer", "Ada  L.", "--port", "0", "--no-open")
    assert done.code == 0
    address = re.fullmatch(r"Review of .*run by Ada L\.: (http://127\.0\.0\.1:\d+/[\w-]{20,}/)\n", done.out)
    assert address is not None
    assert json.loads(seen[1])["of"] == 3
    assert f"3 pairs of 3 left. Go on with: refine review {run} --votes 3 --reviewer 'Ada L.'" in done.err
    vote(run, "Ada L.", 3)
    done = refine("review", run, "--votes", "3", "--reviewer", "Ada L.", "--port", "0", "--no-open")
    assert done.out.splitlines()[1].startswith("Ada L. preferred ")
    assert "left. Go on" not in done.err


def test_what_was_voted_for_a_program(refine: Refine, run: Path) -> None:
    number = vote(run)
    found = json.loads(refine("review", run, "--json").out)
    own = found["reviewers"]["ada"]
    assert own["tuned"] + own["base"] + own["tie"] == number >= 5
    assert found["all"] == own
    assert found["with_reward"]["pairs"] == number
    assert found["among"] == []


def test_what_is_refused(refine: Refine, run: Path, tmp_path: Path) -> None:
    for words, more in (
        ("go with --calibrate", ("--judge", "a/b")),
        ("go with --calibrate", ("--set", "budget.dollars=1")),
        ("0 pairs were voted on, and from fewer than 5 nothing can be said", ("--calibrate",)),
        ("a name has 1 to 40 characters", ("--reviewer", "x" * 50)),
    ):
        done = refine("review", run, *more)
        assert (done.code, words in done.err) == (2, True), done.err
    assert refine("review", tmp_path / "none").code == 2
    vote(run)
    assert "the run has no judge" in refine("review", run, "--calibrate").err
    assert "no endpoint `nowhere`" in refine("review", run, "--calibrate", "--judge", "nowhere/x").err
    missing = refine("review", run, "--calibrate", "--judge", "openai/x", "--rubric", tmp_path / "none.md")
    assert (missing.code, "none.md" in missing.err) == (2, True)


def judged(body: dict[str, Any]) -> str:
    """One judge likes short answers, one long ones; the short one's other rubric turns it around."""
    text = body["messages"][-1]["content"]
    short = (body["model"] == "short") is not ("Length is all." in json.dumps(body))
    found = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
    lengths = {name: len(json.loads(content)[-1]["content"]) for name, content in found}
    scores = {name: 1 / (1 + n) if short else 1 - 1 / (1 + n) for name, n in lengths.items()}
    return json.dumps({"scores": [{"id": n, "explanation": "", "score": s} for n, s in scores.items()]})


def test_which_judge_agrees_with_people(
    refine: Refine, run: Path, llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    number = vote(run)
    server = llm_server(brain=judged)
    rubric = tmp_path / "other.md"
    rubric.write_text("Length is all.")
    asked = (
        *("review", run, "--calibrate", "--judge", "local/short", "--judge", "local/long"),
        *("--rubric", rubric, "--set", f"endpoints.local.base_url={server.base_url}"),
        *("--set", f"endpoints.local.prices={PRICES}"),
    )
    unasked = refine(*asked)
    assert (unasked.code, server.requests) == (2, [])
    assert f"Judging {number} pairs takes up to {4 * number} calls to local/short, local/long" in unasked.err
    done = refine(*asked, "--yes", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["judges"]
    by = {(row["judge"], Path(row["rubric"]).name): row for row in rows}
    assert len(server.requests) == sum(row["calls"] for row in rows) == 4 * number
    own, other = "the run's rubric", "other.md"
    assert by["local/short", own]["agreement"]["kappa"] == 1.0
    assert by["local/long", other]["agreement"]["kappa"] == 1.0
    for disagrees in (by["local/short", other], by["local/long", own]):
        assert disagrees["agreement"]["kappa"] < 0.2
    assert all(row["cost_usd"] > 0 and row["failed"] == 0 for row in rows)
    assert [row["agreement"]["kappa"] for row in rows[:2]] == [1.0, 1.0]  # the best first
    folder = RunFolder(run)
    assert len(folder.calibrations()) == 4
    assert {c["purpose"] for c in folder.calls()} == {"calibration"}
    assert "Which judge agrees with them" in folder.report.read_text()
    shown = refine(*asked, "--yes")  # from the cache now
    head = ["judge", "alike", "kappa", "95 % interval", "calls", "dollars"]
    assert re.split(r" {2,}", shown.out.splitlines()[0].strip()) == head
    assert "  by the run's rubric" in shown.out
    assert "agrees best with people; from 1 of the others these votes do not tell it apart." in shown.out
    assert len(server.requests) == 4 * number
