"""Whole commands on terminals of several widths: what is there at 200 columns is there at 60, whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_plan import JUDGED

Terminal = Callable[..., str]


@pytest.fixture
def shows(refine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What a terminal of that many columns shows of a command."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)

    def show(columns: int, *arguments: str | Path) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        done = refine(*arguments)
        return re.sub(r"\r|\x1b\[[?0-9;]*[A-Za-z]", "", done.err + done.out)

    return show


def words(text: str) -> list[str]:
    return [word for word in text.split() if word != "\\"]


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ("recipes",),
        ("prompts", "--recipe", "style"),
        ("train", "--recipe", "style", "--set", "grpo.group_size=9"),
        ("chat", "not-a-run"),
        ("export", "not-a-run"),
        ("score", "none.jsonl", "--out", "o.jsonl", "--judge", "nowhere/some-judge-with-a-long-name"),
    ],
    ids=" ".join,
)
def test_every_word_is_shown_whole(shows: Terminal, columns: int, arguments: tuple[str, ...]) -> None:
    shown = shows(columns, *arguments)
    assert words(shown) == words(shows(200, *arguments))
    assert widest(shown) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_calls_of_a_plan(shows: Terminal, tmp_path: Path, columns: int) -> None:
    (tmp_path / "task.toml").write_text(JUDGED)
    shown = shows(columns, "plan", "task.toml")
    assert widest(shown) <= columns
    start = shown.index("calls to LLMs")
    table = words(shown[start : shown.index("\n\n", start)])
    wide = shows(200, "plan", "task.toml")
    start = wide.index("calls to LLMs")
    rows = wide[start : wide.index("\n\n", start)].splitlines()
    assert len(rows) > 10
    for row in rows[1:]:
        name, *numbers = re.split(r"  +", row.strip())
        assert " ".join(words(name)) in " ".join(table)
        for number in numbers:  # as "0.15–2.33 M": its ends and its unit beside each other
            assert f" {number} " in f" {' '.join(table)} "
    if columns > 40:
        assert table == words("\n".join(rows))


@pytest.mark.parametrize("columns", [60, 120])
def test_names_of_facets_are_not_cut(shows: Terminal, tmp_path: Path, columns: int) -> None:
    values = ("a value that is rather long, as people write them", "short")
    lines = [
        {
            "prompt": f"{n * 7919} and {n}: {'what' * (n % 7)} is {n * n}?",
            "facets": {"a facet": values[n % 2]},
        }
        for n in range(60)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sizes = {"source": "file:p.jsonl", "train": 20, "validation": 4, "held_out": 6}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in sizes.items())
    rest = '[model]\nname = "tiny"\n[reward]\nrules = [{rule = "words", max = 9}]'
    (tmp_path / "task.toml").write_text(f'task = "x"\n[prompts]\n{table}\n{rest}')
    shown = shows(columns, "prompts", "task.toml")
    assert widest(shown) <= columns
    assert "…" not in shown
    long_value = re.search(r"^  a value that is rather long, as people write them *\n? +(\d+)", shown, re.M)
    short = re.search(r"^  short +(\d+)", shown, re.MULTILINE)
    assert long_value is not None
    assert short is not None
    assert int(long_value[1]) + int(short[1]) == 20


def test_what_init_says_can_be_pasted(shows: Terminal, tmp_path: Path) -> None:
    said = shows(60, "init", "mine", "--task", "Answer like a pirate who knows the sea.")
    assert "  mine/prompts.jsonl  what" in said
    assert "  mine/rewards.py     what" in said
    command = said[said.index("  refine init ") :].split("\n\n")[0]
    assert command.splitlines()[0].endswith(" \\")
    assert "'Answer like a pirate who knows the sea.'" in command
    assert widest(said) <= 60
