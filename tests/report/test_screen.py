"""What the terminal shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import make
from make import estimate, part
from refine_rl.errors import GuardStop, UserError
from refine_rl.report.lines import spark
from refine_rl.report.screen import Screen, print_comparison, print_error, shown
from refine_rl.types import Comparison, Contrast, Other, SFTMetrics, StepMetrics


def metrics(**changes: Any) -> StepMetrics:
    usual = {"step": 7, "groups": 8, "groups_zero_variance": 2, "tokens_mean": 123.4, "clipped_share": 1.0}
    return make.metrics(**(usual | changes))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Screen]:
    def make(columns: int) -> Screen:
        monkeypatch.setenv("COLUMNS", str(columns))
        return Screen()

    return make


@pytest.mark.parametrize("columns", [80, 120])
def test_a_step_takes_one_line(
    wide: Callable[[int], Screen], capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    screen = wide(columns)
    for step in range(1, 101):
        screen.step(metrics(step=step, reward_mean=-(step % 7) / 7), 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100
    assert max(map(len, lines)) <= columns
    assert len({line.index("tokens") for line in lines}) == 1  # columns under each other
    assert "step 100/100  reward -0.286 " in lines[-1]
    assert "tokens 123, cut 100%, no spread 2/8" in lines[-1]


def sft_metrics(step: int, loss: float, looked: float | None = None) -> SFTMetrics:
    return SFTMetrics(
        step=step,
        loss=loss,
        validation_loss=looked,
        tokens=4096,
        targets=400,
        rows=9,
        epoch=step / 7,
        learning_rate=1e-3,
        grad_norm=1.0,
        seconds={"train": 0.5 + step, "total": 2.0 + step},
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_a_step_of_supervised_fine_tuning_takes_one_line(
    wide: Callable[[int], Screen], capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    screen = wide(columns)
    for step in range(1, 101):
        screen.step(sft_metrics(step, 8 / step, None if step % 10 else 7.5), 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100
    assert max(map(len, lines)) <= columns
    assert len({line.index("epoch") for line in lines}) == 1  # columns under each other
    assert len({line.index(", validation") for line in lines if "validation" in line}) == 1
    assert lines[-1].endswith(", validation 7.5000")
    assert ("tokens/s" in lines[-1]) == (columns == 120)


def test_losses_are_not_in_the_curve_of_rewards(
    wide: Callable[[int], Screen], capsys: pytest.CaptureFixture[str]
) -> None:
    screen = wide(120)
    screen.step(sft_metrics(1, 8.0), 1)
    screen.step(metrics(step=1, reward_mean=0.5), 2)
    screen.step(metrics(step=2, reward_mean=1.0), 2)
    assert "▁█ " in capsys.readouterr().err.splitlines()[-1]


def test_missing_members_are_named(wide: Callable[[int], Screen], capsys: pytest.CaptureFixture[str]) -> None:
    wide(120).step(metrics(members_missing=3, reward_mean=None), 9)
    line = capsys.readouterr().err
    assert "missing 3" in line
    assert "reward    -  " in line


def test_spark() -> None:
    assert spark([]) == ""
    assert spark([2.0, 2.0]) == "▅▅"
    assert spark([0.0, 1.0, 2.0]) == "▁▅█"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain äöü 漢字 🙂\n\tnext", "plain äöü 漢字 🙂\n\tnext"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\x00b\rc\x07\x7f\x9b", "a\\x00b\\rc\\x07\\x7f\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_foreign_text_cannot_drive_the_terminal(text: str, safe: str) -> None:
    assert shown(text) == safe


def test_markup_in_foreign_text_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.stage("loading [bold]x[/bold]")
    screen.note("[red]note[/red]")
    screen.warning("odd [/] tag \x1b[2J")
    print_error(UserError("wrong [key] \x1b[2J"))
    print_error(GuardStop("g", "what", "advice"))
    err = capsys.readouterr().err
    for text in ("loading [bold]x[/bold]", "[red]note[/red]", "odd [/] tag \\x1b[2J", "error  wrong [key]"):
        assert text in err
    assert "stopped  what advice" in err
    assert "\x1b" not in err


def test_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    contrast = Contrast(
        base=estimate(0.1, 0.05, 0.15), tuned=estimate(0.9, 0.85, 0.95), difference=estimate(0.8, 0.7, 0.9)
    )
    details = {"success_greedy": contrast, "component:[x]": contrast}
    print_comparison(make.comparison("better", contrast, details=details))
    lines = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    assert lines[0] == "better on 64 held-out prompts"
    assert lines[2].split() == ["reward", "0.100", "0.900", "+0.800", "+0.700", "to", "+0.900"]
    assert lines[3].startswith("success, greedy ")
    assert lines[4].startswith("  [x] ")
    assert lines[-1] == (
        "reward: base 0.100 [0.050, 0.150], tuned 0.900 [0.850, 0.950] (95 % intervals)"
    )  # 64 prompts are enough: no word about narrow intervals
    assert len(lines) == 7


def by_facet(**more: Any) -> Comparison:
    facets = {
        "style [x]": {"pirate": part(40), **{f"s{i}": part(9) for i in range(9)}, "haiku": part(4)},
        "topic": {"tea": part(4), "a rather long value of a facet": part(4)},
    }
    known = {"facets": facets, "combinations": {"seen": part(60), "unseen": part(4)}, "samples": 1}
    return make.comparison("better", part(64), **(known | more))


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_rewards_by_facet_fit_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_comparison(by_facet())
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    start = next(n for n, line in enumerate(lines) if line.startswith("reward by facet"))
    table = [line.split() for line in lines[start : lines.index("", start) if "" in lines[start:] else None]]
    rewards = [] if columns == 60 else ["0.250", "0.750"]
    assert table[1] == ["combinations"]
    assert table[2] == ["met", "in", "training", "60", *rewards, "+0.500", "+0.375", "to", "+0.625"]
    assert table[3] == ["held", "out", "whole", "4", *rewards, "+0.500", "too", "few"]
    assert table[4] == ["style", "[x]"]
    assert table[5] == ["pirate", "40", *rewards, "+0.500", "+0.375", "to", "+0.625"]
    assert table[13] == ["+", "3", "in", "the", "report"]  # eight values are shown
    assert table[14][:1] == ["success:"]  # no value of the other facet has prompts enough
    assert max(map(len, lines[start : start + 14])) <= columns


def test_prompts_left_out_are_said_and_few_prompts_get_no_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_comparison(by_facet(prompts=8, prompts_missing=4, scores_missing={"base": 1, "tuned": 9}))
    out = capsys.readouterr().out
    assert out.startswith("\nbetter: compared on 8 of 12 held-out prompts\n")
    assert "Scores are missing of 1 of the base model’s 24 answers and of 9 of the tuned model’s" in out
    print_comparison(by_facet(prompts=4, verdict="too few to tell", facets={}), what="prompts")
    out = capsys.readouterr().out
    assert out.startswith("\ntoo few to tell: compared on 4 prompts\n")
    assert " to +" not in out
    assert "reward  0.250  0.750      +0.500        too few" in out


def test_a_comparison_that_was_not_possible(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"base": None, "tuned": None, "difference": None, "facets": {}}
    print_comparison(by_facet(prompts=0, prompts_missing=3, verdict="not possible", **nothing))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "not possible: compared on 0 of 3 held-out prompts"
    assert lines[1].startswith("No prompt (of 3) has scores of both models.")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("columns", "missing", "line"),
    [
        (120, 0, "step 100/100 reward -0.286 tokens 123, cut 100%, no spread 16/16"),
        (80, 0, "step 100/100 reward -0.286 tokens 123, cut 100%, no spread 16/16"),
        (82, 1, "100/100 reward -0.286 tokens 123, cut 100%, no spread 16/16, missing 1"),
        (80, 1234, "100/100 reward -0.286 cut 100%, no spread 16/16, missing 1234"),
        (60, 0, "100/100 reward -0.286 cut 100%, no spread 16/16"),
        (60, 12, "100/100 reward -0.286 cut 100%, no spread 16/16,\n missing 12"),
    ],
)
def test_a_step_on_screens_of_any_width(
    wide: Callable[[int], Screen],
    capsys: pytest.CaptureFixture[str],
    columns: int,
    missing: int,
    line: str,
) -> None:
    wide(columns).step(
        metrics(step=100, reward_mean=-2 / 7, groups=16, groups_zero_variance=16, members_missing=missing),
        100,
    )
    shown_lines = capsys.readouterr().err
    assert re.sub(r"[▁-█ ]+", " ", shown_lines[10:]).rstrip() == line
    assert max(map(len, shown_lines.splitlines())) <= columns


def seen(text: str) -> str:
    """What a terminal shows of it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Standard output and error are terminals of that many columns."""

    def make(columns: int) -> None:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))

    return make


@pytest.mark.parametrize(
    ("columns", "table"),
    [
        (
            120,
            """
                                 base  tuned  difference     95 % interval
            reward              0.250  0.750      +0.500  +0.375 to +0.625
            success, greedy     0.250  0.750      +0.500  +0.375 to +0.625
              keeps every name  0.250  0.750      +0.500  +0.375 to +0.625
            """,
        ),
        (
            60,
            """
                              base  tuned  difference     95 % interval
            reward           0.250  0.750      +0.500  +0.375 to +0.625
            success, greedy  0.250  0.750      +0.500  +0.375 to +0.625
              keeps every name
                             0.250  0.750      +0.500  +0.375 to +0.625
            """,
        ),
        (
            40,
            """
            reward
              base 0.250  tuned 0.750
              difference +0.500
              95 % interval +0.375 to +0.625
            success, greedy
              base 0.250  tuned 0.750
              difference +0.500
              95 % interval +0.375 to +0.625
              keeps every name
                base 0.250  tuned 0.750
                difference +0.500
                95 % interval +0.375 to +0.625
            """,
        ),
    ],
)
def test_the_comparison_on_screens_of_any_width(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str], columns: int, table: str
) -> None:
    terminal(columns)
    names = ("success_greedy", "component:keeps every name")
    print_comparison(by_facet(facets={}, combinations={}, details=dict.fromkeys(names, part(64))))
    out = seen(capsys.readouterr().out)
    whole = table.replace("\n" + 12 * " ", "\n")
    assert whole in out
    assert max(map(len, out.splitlines())) <= columns
    said = out.split(whole)[1]
    assert "[0.125, 0.375], tuned" in " ".join(said.split())
    assert "[0.125, 0.375]" in said  # both ends on one line


def test_nothing_is_cut_or_broken_on_a_narrow_screen(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"prompts": 8, "prompts_missing": 4, "scores_missing": {"base": 1, "tuned": 9}}
    comparison = by_facet(**few, combinations={}, facets={"a": {"b": part(9)}})
    terminal(200)
    print_comparison(comparison)
    print_error(UserError("no such file; `refine init my-task` makes a task to start from " * 3))
    wide_words = [seen(stream).split() for stream in capsys.readouterr()]
    terminal(60)
    print_comparison(comparison)
    print_error(UserError("no such file; `refine init my-task` makes a task to start from " * 3))
    narrow = [seen(stream) for stream in capsys.readouterr()]
    assert max(len(line) for stream in narrow for line in stream.splitlines()) <= 60
    leave = ("base", "tuned", "0.250", "0.750", "\\")  # the report has these of each facet
    for words, stream in zip(wide_words, narrow, strict=True):
        kept = [word for word in stream.split() if word not in leave]
        assert kept == [word for word in words if word not in leave]


def test_a_further_model_has_a_table_and_a_sentence_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    greedy = {"greedy": make.contrast(0.5, 0.9)}
    sft = Other(mean=0.6, ci95=(0.5, 0.7), tuned_minus=make.estimate(0.01, -0.02, 0.04), details=greedy)
    print_comparison(make.comparison("better", make.contrast(0.2, 0.6), prompts=30, others={"sft": sft}))
    said = capsys.readouterr().out
    assert re.search(r"beside sft +sft +tuned +difference", said)
    assert re.search(r"reward +0\.600 .*\+0\.010 +-0\.020 to \+0\.040", said)
    assert re.search(r"greedy +0\.500 +0\.900 ", said)
    assert "is not shown to be better than the model after supervised fine-tuning: +0.010" in said
