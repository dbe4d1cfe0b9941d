"""Metrics, controls and later evaluations: what page and terminal show of them, and that they come back."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import make
from refine_rl.errors import UserError
from refine_rl.evaluate.versus import Model, Versus
from refine_rl.report.measured import metrics, print_metrics
from refine_rl.report.page import render
from refine_rl.report.screen import print_comparison, results
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import Beside, Comparison


def beside(mean: float, ahead: float, by: float = 0.02) -> Beside:
    own = make.estimate(mean, by=by)
    return Beside(mean=own.mean, ci95=own.ci95, tuned_minus=make.estimate(ahead, by=by))


def measured(prompts: int = 64) -> Comparison:
    """BLEU with a further model, a perplexity that fell and a win rate; a control beaten by one of two."""
    return make.comparison(
        "better",
        make.contrast(0.25, 0.75),
        metrics={
            "bleu": make.metric(
                make.contrast(12.5, 20.25, 1.5),
                prompts=prompts,
                how="sacrebleu, nrefs:1|tok:13a",
                others={"sft": beside(18.0, 2.25, 1.0)},
            ),
            "perplexity": make.metric(make.contrast(31.5, 8.25, 1.0), prompts=prompts),
            "win_rate": make.metric(
                make.contrast(0.25, 0.75),
                prompts=prompts,
                how="judged by e/<judge>",
                notes={"first_shown": 0.625, "turned": 0.25, "missing": 2},
            ),
        },
        controls={"nearest": {"bleu": beside(21.0, -0.75), "reward": beside(0.5, 0.25)}},
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(
        tmp_path / "run", Settings(task="Say it.", reward={"rules": [{"rule": "words", "max": 9}]})
    )
    run.save_comparison(measured())
    return run


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html[html.index("<body>") :]).replace("\xa0", " ").split())


def test_metrics_and_controls_come_back_as_they_went(folder: RunFolder) -> None:
    assert folder.comparison() == measured()
    folder.save_evaluation("b", measured(40))
    folder.save_evaluation("a", make.comparison("better", make.contrast(0.1, 0.2)))
    assert list(folder.evaluations()) == ["b", "a"]  # the oldest first
    assert folder.evaluations()["b"] == measured(40)
    (folder.path / "evaluations" / "c.json").write_text('{"prompts": 3')
    with pytest.raises(UserError, match=r"c\.json is damaged. Remove it: `refine eval \S+ --name c` makes"):
        folder.evaluations()


def test_the_page_shows_values_intervals_and_what_was_not_beaten(folder: RunFolder) -> None:
    html = render(folder)
    text = text_of(html)
    assert "Beside the references" in text
    assert (
        "BLEU, 0 to 100 12.50 11.00 to 14.00 18.00 17.00 to 19.00 20.25 18.75 to 21.75 +7.75 6.25 to 9.25 "
        "+2.25 1.25 to 3.25" in text
    )
    assert "Perplexity of the references 31.50 30.50 to 32.50 – 8.25 7.25 to 9.25 −23.25" in text
    assert (
        "the answer of the nearest training prompt BLEU, 0 to 100 21.00 20.98 to 21.02 −0.75 −0.77 to −0.73 "
        "Reward, greedy answer 0.50 0.48 to 0.52 +0.25 0.23 to 0.27" in text
    )
    assert (
        "The tuned model is not shown to beat the answer of the nearest training prompt, which needs no "
        "model, by BLEU (20.250 against 21.000)." in text
    )
    assert "BLEU, 0 to 100: sacrebleu, nrefs:1|tok:13a." in text
    assert (
        "judged by e/&lt;judge&gt;; of its verdicts for one of two answers 62 % were for the one shown "
        "first; 25 % of the pairs turned around with the order, and are ties; 2 verdicts are missing." in text
    )
    assert "Later evaluations" not in text
    # A dot where its value lies on an axis from 0 to the largest end: 20.25 of 21.75.
    assert "left:93.10%" in html


def test_later_evaluations_stand_on_the_page(folder: RunFolder) -> None:
    folder.save_evaluation("by-pairs", measured(4))
    folder.save_evaluation("plain", make.comparison("not better", make.contrast(0.25, 0.26)))
    text = text_of(render(folder))
    shown = text[text.rindex("Later evaluations Base against tuned again") :]
    assert shown.index("by-pairs") < shown.index("plain")
    # Four prompts: means alone, and nothing is said of controls.
    assert "BLEU, 0 to 100 12.50 18.00 20.25 +7.75 +2.25" in shown
    assert "not shown to beat" not in shown.partition("plain")[0]
    assert "The tuned model is not shown to be better: reward 0.25 → 0.26" in shown


def test_comparisons_with_other_models_are_linked_beside_the_report(folder: RunFolder) -> None:
    assert "Later evaluations" not in text_of(render(folder))
    for name, rival in (("b", "<b>bold</b>"), ("b 2", "plain")):
        versus = Versus(
            a=Model(name="a"),
            b=Model(name=rival),
            comparison=make.comparison("better", make.contrast(0.25, 0.5)),
            seed=0,
        )
        record = {"verdict": versus.standing, **dataclasses.asdict(versus)}
        _, page = folder.save_versus(name, record, "<p>page</p>")
    html = render(folder)
    assert page.relative_to(folder.path).as_posix() == "comparisons/b 2.html"
    assert '<li><a href="comparisons/b%202.html">plain</a>: B is better: reward of' in html
    assert '<a href="comparisons/b.html">&lt;b&gt;bold&lt;/b&gt;</a>' in html
    assert "difference B less A +0.250 [+0.200, +0.300] on 64 prompts" in text_of(html)
    assert '<a href="#later">' in html
    (folder.path / "comparisons" / "b.json").write_text('{"verdict": 3}')
    with pytest.raises(UserError, match=r"comparisons/b.json is damaged"):
        folder.versus()


def test_the_terminal_shows_them_beside_the_reward(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    print_comparison(measured())
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    (row,) = [line.split() for line in lines if line.startswith("Perplexity of the references")]
    assert row[-6:] == ["31.500", "8.250", "-23.250", "-24.250", "to", "-22.250"]
    start = lines.index(next(line for line in lines if line.startswith("beside sft")))
    assert lines[start + 1].split()[-6:] == ["18.000", "20.250", "+2.250", "+1.250", "to", "+3.250"]
    at = lines.index("the answer of the nearest training prompt")
    assert lines[at + 1].split()[-5:] == ["21.000", "-0.750", "-0.770", "to", "-0.730"]
    assert any(line.startswith("The tuned model is not shown to beat") for line in lines)


def test_without_metrics_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    plain = make.comparison("better", make.contrast(0.1, 0.9))
    assert metrics(plain) is None
    print_metrics(plain, results())
    assert capsys.readouterr().out == ""
