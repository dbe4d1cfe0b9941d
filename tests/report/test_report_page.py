from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from refine_rl.errors import GuardStop
from refine_rl.report.page import render
from refine_rl.run import RunFolder


def test_the_page_is_the_same_for_the_same_files(run: RunFolder) -> None:
    assert render(run) == render(RunFolder.open(run.path))


def test_the_page_names_nothing_outside(run: RunFolder) -> None:
    html = render(run)
    assert not re.findall(r"https?://[^\s\"'<]+", html)
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b|@import|url\((?!#)", html)


def test_the_page_says_the_verdict_the_task_and_the_numbers(run: RunFolder) -> None:
    html = render(run).replace("\N{NO-BREAK SPACE}", " ")
    comparison = run.comparison()
    assert comparison is not None
    assert '<span class="claim">The tuned model is better:</span>' in html
    low, high = comparison.difference.ci95
    assert f"95 % interval {low:.2f} to {high:.2f}) on {comparison.prompts} held-out prompts." in html
    assert "Rewrite the text in the requested style while keeping its meaning.\nStay short." in html
    greedy = comparison.details["greedy"].tuned
    assert f'{greedy.mean:.2f}</span> <span class="ci">{greedy.ci95[0]:.2f} to {greedy.ci95[1]:.2f}' in html


def test_texts_of_models_are_escaped(run: RunFolder, hostile: tuple[str, ...]) -> None:
    html = render(run)
    for text in hostile:
        assert text not in html
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in html  # in the side-by-side table
    # Ours, the rollouts, and the numbers of the charts: one more for each family of them, for the
    # reward, and for what several tries reach.
    assert html.count("<script") == html.count("</script>") == 2 + 3 + 2


def test_the_page_says_where_the_time_went(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path / "run", steps=2, held_out=4)
    with run.timed("validation", 0):
        time.sleep(0.001)  # what takes no time has no row
    html = render(run).replace("\N{NO-BREAK SPACE}", " ")
    for stage, times in (("Steps: sampling", 2), ("Steps: training", 2), ("Validation", 1)):
        assert f'<th scope="row">{stage}</th><td class="num">{times}</td>' in html


def test_texts_of_people_and_events_are_escaped(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path / "run", steps=1, compared=False)
    run.config.save(run.settings().model_copy(update={"task": "<b>bold</b> & {{ 7 * 7 }}"}))
    run.event("warning", "<i>", "<script>alert(1)</script>")
    html = render(run)
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; {{ 7 * 7 }}" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_half_a_surrogate_pair_does_not_stop_the_page(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    run = make_run(tmp_path / "run", steps=2, held_out=4)
    path = run.path / "evaluations" / "tuned.jsonl"
    text = path.read_text(encoding="utf-8").replace("Friday", "\\ud800 Friday")
    path.write_text(text, encoding="utf-8")
    run.save_report(render(run))
    assert "? Friday" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_has_only_its_settings_makes_a_page(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    settings = make_run(tmp_path / "other", steps=1).settings()
    html = render(RunFolder.create(tmp_path / "fresh", settings))
    assert "Not begun:" in html
    assert "0 of 120 steps trained" in html
    assert "Every setting in force" in html
    for section in ("evidence", "examples", "training", "rollouts"):
        assert f'id="{section}"' not in html
        assert f'href="#{section}"' not in html


def test_a_run_that_goes_on_says_what_is_still_to_do(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    run = make_run(tmp_path / "run", steps=6, compared=False)
    for stage in ("base", "validation", "validation"):
        run.times.append({"stage": stage, "step": 0, "seconds": 3.0})
    assert re.search(r"<dt>Still to do</dt><dd>about \d+ \w+, going by what it took so far</dd>", render(run))
    assert "Still to do" not in render(make_run(tmp_path / "over", steps=6))


def test_a_stopped_run_shows_what_it_has_and_the_advice(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    run = make_run(tmp_path / "run", steps=12, compared=False)
    stop = GuardStop("all_cut", "Every completion was cut.", "Raise rollout.max_tokens.")
    run.event("guard", stop.guard, f"{stop.what} {stop.advice}", step=12)
    html = render(run)
    top = html[: html.index("</header>")]
    assert "Stopped by the guard “all_cut”:" in top
    assert "12 of 120 steps trained" in top
    assert "Every completion was cut. Raise rollout.max_tokens." in top
    assert 'id="training"' in html
    assert 'id="rollouts"' in html


def test_left_out_rollouts_and_events_are_said(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path / "run", steps=6, prompts_per_step=2, compared=False)
    for i in range(250):
        run.event("curation", "duplicate", f"number {i} left out")
    html = render(run, page_bytes=15_000)
    said = re.search(r"it has the texts of (\d+) of 12 groups, from (\d+) of 6 steps: .*; groups.jsonl", html)
    assert said is not None
    assert 0 < int(said[1]) < 12
    assert "(200, the last of 251; events.jsonl has all)" in html
    assert "number 249 left out" in html
    assert "number 49 left out" not in html


def test_importing_the_page_does_not_import_matplotlib_or_torch() -> None:
    code = "import sys, refine_rl.report.page; print(sorted({'matplotlib', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_on_the_page_hides_or_turns_text(make_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    run.event("anchors", "judges", "esc \x1b[31m nul \x00 turned \u202e back", 0)
    page = render(run)
    assert not set(page) & {"\x1b", "\x00", "\u202e"}
    assert "esc \\x1b[31m nul \\x00 turned \\u202e back" in page


def test_after_one_step_no_empty_plot_stands_there(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    html = render(make_run(tmp_path / "run", steps=1, compared=False))
    assert "The reward is drawn from the second step on." in html
    assert 'id="curve"' not in html
    assert "The reward is drawn" not in render(make_run(tmp_path / "other", steps=2, compared=False))
