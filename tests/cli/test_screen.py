"""What the terminal shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from refine_rl.cli.screen import Screen, print_comparison, print_error, shown, spark
from refine_rl.errors import GuardStop, UserError
from refine_rl.types import Comparison, Contrast, Estimate, StepMetrics


def metrics(**changes: Any) -> StepMetrics:
    usual: dict[str, Any] = {
        "step": 7,
        "reward_mean": 0.5,
        "reward_std": 0.1,
        "components": {},
        "groups": 8,
        "groups_zero_variance": 2,
        "groups_missing": 0,
        "tokens_mean": 123.4,
        "clipped_share": 1.0,
        "loss": 0.0,
        "kl": 0.0,
        "entropy": 1.0,
        "grad_norm": 1.0,
        "learning_rate": 1e-4,
        "seconds": {"total": 1.5},
        "tokens_per_second": 100.0,
        "cost_usd": None,
    }
    return StepMetrics(**{**usual, **changes})


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
    base, tuned = Estimate(mean=0.1, ci95=(0.05, 0.15)), Estimate(mean=0.9, ci95=(0.85, 0.95))
    difference = Estimate(mean=0.8, ci95=(0.7, 0.9))
    contrast = Contrast(base=base, tuned=tuned, difference=difference)
    comparison = Comparison(
        prompts=64,
        base=base,
        tuned=tuned,
        difference=difference,
        verdict="better",
        examples=(),
        details={"success_greedy": contrast, "component:[x]": contrast},
    )
    print_comparison(comparison)
    lines = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    assert lines[0] == "better on 64 held-out prompts"
    assert lines[2].split() == ["reward", "0.100", "0.900", "+0.800", "+0.700", "to", "+0.900"]
    assert lines[3].startswith("success, greedy ")
    assert lines[4].startswith("  [x] ")
    assert lines[-1] == (
        "reward: base 0.100 [0.050, 0.150], tuned 0.900 [0.850, 0.950] (95 % intervals)"
    )  # 64 prompts are enough: no word about narrow intervals
    assert len(lines) == 7
