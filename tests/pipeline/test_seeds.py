"""Several seeds: ordinary runs in a folder, which share prompts, the base model's answers and the budget."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import make
from refine_rl.errors import GuardStop, UserError
from refine_rl.pipeline.runs import list_runs
from refine_rl.pipeline.seeds import check, train_seeds
from refine_rl.pipeline.watch import watchable
from refine_rl.report.listing import print_runs
from refine_rl.report.seeds import COLOURS, Line, _curves, render_seeds, told
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

    def __init__(self, cost: float = 0.0, stop: bool = True) -> None:
        self.asked: list[str] = []
        self.cost = cost
        self.stop = stop

    def __call__(self, run: RunFolder) -> Comparison:
        self.asked.append(run.name)
        if not run.prompts():
            run.save_prompts([BASE])
        seed = run.settings().grpo.seed
        if run.outcomes("base") is None:
            said = make.trajectory(BASE, f"said under seed {seed}", tokens=2)
            answered = (said, make.score(0.25))
            run.save_outcomes("base", [Outcome(prompt=BASE, sampled=(answered,), greedy=answered)])
        if run.probes("base") is None:
            run.save_probes("base", {"losses": [seed], "greedy": [], "sampled": [], "moved": []})
        if not run.metrics():
            run.metrics.append(make.metrics(1, reward_mean=0.1 * seed), make.metrics(2, reward_mean=0.5))
        if self.cost:
            run.calls.append(make_call(self.cost))
        if seed == 7 and self.stop:
            self.stop = False
            raise GuardStop("collapse", "It stopped.", "Look.")
        found = make.comparison("better", make.contrast(0.25, 0.5 + 0.125 * (seed - 5)))
        run.save_comparison(found)
        run.end(str(found), 2)
        run.save_report("<p>its own</p>")
        return found


def make_call(cost: float) -> object:
    from refine_rl.llm.client import Call

    known = {f.name: make_field(f.name, cost) for f in dataclasses.fields(Call)}
    return Call(**known)  # type: ignore[arg-type]


def make_field(name: str, cost: float) -> object:
    texts = {"purpose": "judge", "endpoint": "e", "model": "m", "outcome": "ok"}
    return cost if name == "cost_usd" else {} if name == "extra" else texts.get(name, 1)


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
    assert [(r.probes("base") or {})["losses"] for r in runs] == [[5]] * 3


def test_what_the_first_run_found_holds_for_all(tmp_path: Path) -> None:
    """The number format that was timed when it began, for one."""
    home = SeedsFolder.begin(tmp_path / "all", "all", settings(), 2)
    first = home.run(0)
    own = first.settings()
    assert own.model.dtype == "auto"
    first.config.save(own.model_copy(update={"model": own.model.model_copy(update={"dtype": "bfloat16"})}))
    assert home.run(1).settings().model.dtype == "bfloat16"


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


def test_the_page_has_all_seeds_and_leads_to_each(tmp_path: Path) -> None:
    home = SeedsFolder.begin(tmp_path / "my seeds", "task", settings(), 3)
    with pytest.raises(GuardStop):
        train_seeds(home, Trained(), lambda found: None)
    page = home.report.read_text()  # of two, renewed after each
    assert "Not better over training seeds:" in page  # 0.25 and 0.375
    assert "2 of 3 seeds are compared. All go on with: refine train --resume" in page
    assert "a third one" not in page
    assert 'href="seed-0/report.html">seed\u00a05</a>' in page
    assert "seed-2/report.html" not in page  # there is none yet
    assert page.count('data-chart="training"') == 1
    assert "var(--seed2)" in page
    train_seeds(home, Trained(stop=False), lambda found: None)
    page = home.report.read_text()
    assert "Better over training seeds:" in page
    assert "tuned less base +0.38, 95 % interval +0.06 to +0.69, over 3 seeds." in page
    assert 'href="seed-2/report.html"' in page
    assert "<dd>5, 6, 7: 3 of 3 compared</dd>" in page
    assert "refine compare" in page
    assert "--resume" not in page
    assert render_seeds(home) == page


def test_many_seeds_are_a_mean_in_a_range() -> None:
    few: dict[str, Line] = {f"seed {n}": ([1, 2], [0.1 * n, None]) for n in range(COLOURS)}
    assert [c.colour for c in _curves(few, dotted=True)] == [f"seed{n}" for n in range(1, COLOURS + 1)]
    line: Line = ([1, 3], [1.0, 0.5])
    (mean,) = _curves({**few, "last": line}, dotted=True)
    assert mean.label == "mean of 7 seeds, and their range"
    (at, values), band = mean.line, mean.band
    assert (list(at), band) == ([1], (([1], [0.0]), ([1], [1.0])))  # the one step that all have
    assert values == pytest.approx([2.5 / 7])


def test_the_list_has_them_under_one_line(tmp_path: Path) -> None:
    home = SeedsFolder.begin(tmp_path / "all", "task", settings(), 3)
    with pytest.raises(GuardStop):
        train_seeds(home, Trained(cost=0.25), lambda found: None)
    group, *runs = list_runs(tmp_path)
    assert [(g.name, g.within) for g in runs] == [(f"all/seed-{n}", "all") for n in range(3)]
    assert (group.kind, group.name, group.task, group.verdict) == ("seeds", "all", "Say hi.", "not better")
    assert (group.steps, group.planned, group.dollars) == (6, 3 * runs[0].planned, 0.75)
    assert (group.state, runs[0].state) == (runs[2].state, "finished")
    assert runs[2].state != "finished"
    train_seeds(home, Trained(stop=False), lambda found: None)
    group, *_ = list_runs(tmp_path / "all")  # the folder itself
    assert (group.name, group.state) == ("all", "finished")
    assert group.difference is not None
    assert group.difference.mean == pytest.approx(0.375)
    console = Console(width=100, record=True, file=io.StringIO())
    print_runs(list_runs(tmp_path), console)
    _, row, about, *below = console.export_text().splitlines()
    assert row.split()[:2] == ["all", f"6/{group.planned}"]
    assert "better   +0.375 [+0.064, +0.686]" in row
    assert about.strip().endswith("several seeds: Say hi.")
    assert [line.split()[0] for line in below] == ["seed-0", "seed-1", "seed-2"]


def test_one_run_is_named_where_one_is_meant(tmp_path: Path) -> None:
    home = SeedsFolder.begin(tmp_path / "all", "task", settings(), 2)
    for open_it in (RunFolder.open, watchable):
        with pytest.raises(UserError, match=r"holds a run for each of several seeds: name one of them, such"):
            open_it(home.path)


def test_what_was_refused_before_it_began_leaves_no_folder(tmp_path: Path) -> None:
    home = SeedsFolder.begin(tmp_path / "all", "task", settings(), 2)
    home.abandon()
    assert not home.path.exists()
    home = SeedsFolder.begin(tmp_path / "all", "task", settings(), 2)
    home.run(0).save_prompts([BASE])
    home.abandon()
    assert home.seeds == 2
