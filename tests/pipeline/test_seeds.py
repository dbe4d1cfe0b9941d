"""Several seeds: ordinary runs in a folder, which share prompts, the base model's answers and the budget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import make
from refine_rl.errors import GuardStop, UserError
from refine_rl.pipeline.seeds import check, train_seeds
from refine_rl.report.seeds import told
from refine_rl.run import RunFolder
from refine_rl.run.seeds import OverSeeds, SeedsFolder
from refine_rl.settings import Settings
from refine_rl.types import Comparison, Outcome

BASE = make.prompt(1, split="held_out")


def settings(**changes: object) -> Settings:
    return Settings.model_validate(
        {"task": "Say hi.", "grpo": {"seed": 5}, "reward": {"rules": [{"rule": "words", "max": 3}]}} | changes
    )


class Trained:
    """A training that leaves what one leaves; the third seed is interrupted at first."""

    def __init__(self, cost: float = 0.0) -> None:
        self.asked: list[str] = []
        self.cost = cost
        self.stop = True

    def __call__(self, run: RunFolder) -> Comparison:
        self.asked.append(run.name)
        if not run.prompts():
            run.save_prompts([BASE])
        seed = run.settings().grpo.seed
        if run.outcomes("base") is None:
            said = make.trajectory(BASE, f"said under seed {seed}", tokens=2)
            answered = (said, make.score(0.25))
            run.save_outcomes("base", [Outcome(prompt=BASE, sampled=(answered,), greedy=answered)])
        if self.cost:
            run.calls.append(make_call(self.cost))
        if seed == 7 and self.stop:
            self.stop = False
            raise GuardStop("collapse", "It stopped.", "Look.")
        found = make.comparison("better", make.contrast(0.25, 0.5 + 0.125 * (seed - 5)))
        run.save_comparison(found)
        return found


def make_call(cost: float) -> object:
    from refine_rl.llm.client import Call

    known = {f.name: make_field(f.name, cost) for f in dataclasses.fields(Call)}
    return Call(**known)  # type: ignore[arg-type]


def make_field(name: str, cost: float) -> object:
    texts = {"purpose": "judge", "endpoint": "e", "model": "m", "outcome": "ok"}
    return cost if name == "cost_usd" else texts.get(name, 1)


def test_each_seed_is_a_run_and_all_have_an_interval(tmp_path: Path) -> None:
    home = SeedsFolder.begin(tmp_path / "all", "task", settings(), 3)
    train, seen = Trained(), list[OverSeeds]()
    with pytest.raises(GuardStop, match="It stopped"):
        train_seeds(home, train, seen.append)
    assert [s.difference is None for s in seen] == [True, False]
    assert "2 of 3 seeds" in told(seen[-1])
    again = SeedsFolder.open(tmp_path / "all")
    assert again is not None
    over = train_seeds(again, train, seen.append)
    assert train.asked == ["seed-0", "seed-1", "seed-2", "seed-0", "seed-1", "seed-2"]
    assert [(r.seed, r.run, r.verdict) for r in over.runs] == [
        (5 + i, f"seed-{i}", "better") for i in range(3)
    ]
    # Differences 0.25, 0.375, 0.5: t(0.975, 2) x 0.125 / sqrt(3) = 0.3105 to each side.
    assert over.difference is not None
    assert over.difference.mean == pytest.approx(0.375)
    assert over.difference.ci95 == pytest.approx((0.0645, 0.6855), abs=1e-4)
    assert told(over).startswith(
        "better over training seeds: +0.375, 95 % interval +0.064 to +0.686 (Student’s t over 3 seeds)"
    )
    written = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert written["seeds"] == 3
    assert written["difference"]["mean"] == pytest.approx(0.375)
    runs = again.runs()
    assert [r.settings().grpo.seed for r in runs] == [5, 6, 7]
    assert [r.prompts() for r in runs] == [[BASE]] * 3
    answers = [o for r in runs for o in r.outcomes("base") or []]
    assert {o.greedy[0].completion for o in answers} == {"said under seed 5"}  # asked once


def test_the_dollars_are_those_of_all_together(tmp_path: Path) -> None:
    home = SeedsFolder.begin(tmp_path / "all", "task", settings(budget={"dollars": 1.0}), 3)
    with pytest.raises(GuardStop, match=r"1 dollars of budget\.dollars are spent on 2 of 3 seeds") as stop:
        train_seeds(home, Trained(cost=0.5), lambda found: None)
    assert f"refine train --resume {tmp_path / 'all'}" in str(stop.value)
    assert [r.settings().budget.dollars for r in home.runs()] == [1.0, 0.5, 1.0]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seeds 1: an interval over training seeds takes 2 to 100"):
        check(settings(), 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(UserError, match="there already, and not empty"):
        SeedsFolder.begin(tmp_path / "a", "task", settings(), 2)
    assert SeedsFolder.open(tmp_path / "a") is None
    (tmp_path / "a" / "seeds.json").write_text("{}")
    with pytest.raises(UserError, match=r"seeds\.json is damaged"):
        SeedsFolder(tmp_path / "a").seeds  # noqa: B018
    (tmp_path / "a" / "seeds.json").write_text('{"seeds": 1}')
    with pytest.raises(UserError, match="has to be 2 or more"):
        SeedsFolder(tmp_path / "a").seeds  # noqa: B018
