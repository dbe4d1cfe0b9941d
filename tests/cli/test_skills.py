"""The page for coding agents: where it is, what it claims, and that it stays one page. That its commands and
its TOML are understood, tests/test_advice.py sees to."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import make
from refine_rl import errors
from refine_rl.cli.skills import SKILLS
from refine_rl.run.records import group_record
from refine_rl.types import Comparison, Estimate, StepMetrics

PAGE = SKILLS / "refine-rl" / "SKILL.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_it_is_printed_where_it_is_and_copied_where_it_is_wanted(
    refine: Callable[..., Any], tmp_path: Path
) -> None:
    assert refine("skills").out == f"{PAGE}\n"
    there = tmp_path / "agents" / "skills"
    copied = there / "refine-rl" / "SKILL.md"
    for _ in range(2):  # what is there already as it is stays
        done = refine("skills", "--to", there)
        assert (done.code, done.out) == (0, f"{copied}\n")
        assert copied.read_text(encoding="utf-8") == TEXT
    copied.write_text("mine")
    done = refine("skills", "--to", there)
    assert done.code == 2
    assert f"{copied.parent} is there already, and is another one" in done.err
    assert copied.read_text() == "mine"
    (tmp_path / "file").write_text("")
    done = refine("skills", "--to", tmp_path / "file")
    assert done.code == 2
    assert "cannot be made" in done.err


def test_its_head_is_as_agents_read_it_and_it_is_one_page() -> None:
    head = re.match(r"---\nname: ([a-z0-9-]+)\ndescription: (.+)\n---\n", TEXT)
    assert head is not None
    assert head[1] == PAGE.parent.name
    assert len(head[2]) <= 1024
    assert ": " not in head[2]  # it would need quotes in YAML
    assert len(TEXT.splitlines()) < 120


def test_its_exit_codes_are_ours() -> None:
    told = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", TEXT)}
    ours = {0, *(e.exit_code for e in vars(errors).values() if hasattr(e, "exit_code"))}
    assert told == ours


def fields(file: str) -> set[str]:
    """What the page's table names as to be read in a file."""
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| `{file}`"))
    return set(re.findall(r"`([a-z_0-9]+)`", line.split("|", 2)[2]))


def test_the_fields_that_it_names_are_there() -> None:
    names = {f.name for kind in (Comparison, Estimate) for f in dataclasses.fields(kind)}
    assert fields("comparison.json") <= names | {"cut"}  # one of `details`
    assert fields("metrics.jsonl") <= {f.name for f in dataclasses.fields(StepMetrics)}
    line = group_record(make.group(make.prompt(), 1.0, trajectories=make.attempts(make.prompt(), 2)))
    assert fields("groups.jsonl") <= line["trajectories"][0].keys()
    assert fields("events.jsonl") <= make.event("warning").keys()
    assert fields("validation.jsonl") == {"step", "reward", "mean", "ci95"}


def test_its_reward_grades() -> None:
    [code] = re.findall(r"(?s)```python\n(.*?)```", TEXT)
    space: dict[str, Any] = {}
    exec(code, space)  # noqa: S102
    assert space["polite"]("?", "Please wait.") == pytest.approx(1 / 3)
    [row] = re.findall(r"a line: (\{.*\})", TEXT)
    assert json.loads(row).keys() == {"prompt", "answer"}
