"""train with seeds, through the Python door; the pipeline is a stand-in that leaves what a training does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import make
import refine_rl as refine
from refine_rl.pipeline import train as pipeline
from refine_rl.run import RunFolder
from refine_rl.types import Comparison

PROMPTS = [f"say something about {n} fish" for n in range(12)]


def brevity(prompt: str, completion: str) -> float:
    return 1.0 if len(completion) <= 8 else 0.0


class Trained:
    """Stops before it has compared the run `stops`, once."""

    def __init__(self, stops: str = "") -> None:
        self.stops = stops

    def __call__(self, folder: RunFolder, **arguments: Any) -> Comparison:
        if (known := folder.comparison()) is not None:
            return known
        assert [f.__name__ for f in arguments["functions"]] == ["brevity"]
        if folder.name == self.stops:
            self.stops = ""
            raise refine.GuardStop("collapse", "It stopped.", "Look.")
        folder.save_prompts([make.prompt(1)])
        found = make.comparison("better", make.contrast(0.25, 0.5 + 0.125 * folder.settings().grpo.seed))
        folder.save_comparison(found)
        return found


def test_seeds_give_back_the_runs_and_go_on(
    small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "run", Trained("seed-1"))
    with pytest.raises(refine.GuardStop) as stop:
        refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], seeds=3, **small())
    text = str(stop.value)
    assert "refine_rl.resume('runs/run/seed-1', rewards=[brevity])" in text
    together = "refine_rl.resume_seeds('runs/run', rewards=[brevity])"
    assert text.endswith(f"All seeds together go on with: {together}")
    with pytest.raises(refine.UserError, match=r"started with code from Python, rewards=\[brevity\]"):
        refine.resume_seeds("runs/run")
    found = refine.resume_seeds("runs/run", rewards=[brevity], observer=refine.Quiet())
    assert [run.folder for run in found] == [Path(f"runs/run/seed-{n}") for n in range(3)]
    assert [run.comparison.tuned.mean for run in found if run.comparison.tuned] == [0.5, 0.625, 0.75]
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.375)
    assert (found.report, found.report.is_file()) == (Path("runs/run/report.html"), True)
    head, said, *runs, page = repr(found).splitlines()
    assert head == "3 seeds in runs/run"
    assert said.strip().startswith("better over training seeds: +0.375, 95 % interval +0.064 to +0.686")
    assert [line.split(":")[0].strip() for line in runs] == ["seed-0", "seed-1", "seed-2"]
    assert page == "  report: runs/run/report.html"
    assert refine.resume_seeds(found, rewards=[brevity], observer=refine.Quiet()) == found


def test_what_seeds_cannot_be_is_refused_and_leaves_nothing(
    small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seeds in (1, 2.5, True):
        with pytest.raises(refine.UserError, match="seeds"):
            refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], seeds=seeds, **small())  # type: ignore[call-overload]
    with pytest.raises(refine.UserError, match="seeds"):
        refine.plan("Be brief.", prompts=PROMPTS, rewards=[brevity], seeds=1)
    with pytest.raises(refine.UserError, match=r"no folder of seeds: it has no seeds\.json"):
        refine.resume_seeds("runs/run")

    def refused(folder: RunFolder, **arguments: Any) -> Comparison:
        raise refine.UserError("No such model.")

    monkeypatch.setattr(pipeline, "run", refused)
    with pytest.raises(refine.UserError, match="No such model"):
        refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], seeds=2, **small())
    assert not Path("runs/run").exists()


def test_the_plan_is_of_all_seeds(small: Callable[..., dict[str, Any]]) -> None:
    arguments = {name: value for name, value in small().items() if name != "observer"}
    one, three = (
        refine.plan("Be brief.", prompts=PROMPTS, rewards=[brevity], seeds=seeds, **arguments)
        for seeds in (None, 3)
    )
    assert (one.seeds, three.seeds) == (1, 3)
    assert one.disk is not None
    assert three.disk == 3 * one.disk
