"""The list of runs at two widths."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from refine_rl.report.listing import print_runs
from refine_rl.run.glance import Difference, Glance

RUNS = [
    Glance(
        name="pirate",
        path=Path("pirate"),
        task="Speak like\na pirate.",
        model="Qwen/Qwen2.5-0.5B-Instruct",
        state="finished",
        steps=120,
        planned=120,
        verdict="better",
        difference=Difference(mean=0.612, ci95=(0.55, 0.67)),
        prompts=64,
        dollars=0.25,
        unpriced=2,
        seconds=600,
        created=datetime(2026, 1, 2, 3, 4),
    ),
    Glance(
        name="pirate/sft", path=Path("p"), within="pirate", kind="sft", state="finished", steps=9, planned=9
    ),
    Glance(
        name="bad\x1b[31m", path=Path("b"), model="/home/me/taught", state="damaged", why="x:1 is damaged"
    ),
    Glance(name="stopped", path=Path("s"), state="stopped", why="budget", seconds=7, steps=1, planned=9),
    Glance(
        name="few",
        path=Path("f"),
        state="finished",
        verdict="too few to tell",
        prompts=4,
        difference=Difference(mean=0.1, ci95=(0.0, 0.0)),
    ),
]


def printed(width: int) -> str:
    file = io.StringIO()
    print_runs(RUNS, Console(file=file, width=width, force_terminal=True, color_system=None))
    return file.getvalue()


def test_wide() -> None:
    lines = printed(130).splitlines()
    assert lines[0].split() == ["run", "steps", "outcome", "tuned", "-", "base", "cost", "time", "began"]
    assert lines[1].split()[:5] == ["pirate", "120/120", "better", "+0.612", "[+0.550,"]
    assert lines[1].endswith("+0.670]  $0.25 and 2 calls of unknown cost  10 min  2026-01-02 03:04")
    assert lines[2] == "  Qwen/Qwen2.5-0.5B-Instruct: Speak like a pirate."
    assert lines[3].split() == ["sft", "9/9", "finished"]
    assert lines[3].startswith("  sft")
    assert lines[4] == "    supervised fine-tuning"
    assert lines[5].split() == ["bad\\x1b[31m", "damaged"]
    assert lines[6:8] == ["  me/taught", "  x:1 is damaged"]
    assert lines[8].split() == ["stopped", "1/9", "stopped:", "budget", "7", "s"]
    assert lines[9].split() == ["few", "too", "few", "to", "tell", "+0.100"]  # no interval of so few
    outcomes = {line.index(word) for line, word in zip(lines[1:9:2], ("better", "finished"), strict=False)}
    assert outcomes == {lines[0].index("outcome")}


@pytest.mark.parametrize("width", [36, 60])
def test_narrow(width: int) -> None:
    lines = printed(width).splitlines()
    assert max(map(len, lines)) <= width
    told = "better +0.612 [+0.550, +0.670]"
    if width == 60:
        assert lines[0] == f"pirate{told:>54}"
    else:
        assert lines[:2] == ["pirate", f"  {told}"]
    assert "  120/120 steps, 10 min, $0.25 and" in printed(width)
    assert any(line.endswith("…") for line in lines) == (width == 36)
