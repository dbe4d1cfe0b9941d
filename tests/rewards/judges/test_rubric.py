"""Rubrics: one's own as text or file, lines of weighted criteria, and one that an LLM writes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.llm.client import CallFailed
from refine_rl.llm.scripted import Scripted
from refine_rl.rewards.judges.rubric import (
    Criterion,
    default_rubric,
    parse_criteria,
    rubric_named,
    without_weights,
    write_rubric,
)


def load(rubric: str, folder: Path = Path()) -> str:
    return rubric_named(rubric, folder)


def test_the_general_rubric_has_four_ideas_and_no_criteria() -> None:
    assert load("") == default_rubric()
    assert len(default_rubric().splitlines()) == 4
    assert parse_criteria(default_rubric()) == ()


def test_a_rubric_is_text_or_a_file_beside_the_task(tmp_path: Path) -> None:
    (tmp_path / "rubric.md").write_text("\ufeffBe kind.\n", encoding="utf-8")
    assert load("Be brief.") == "Be brief."
    assert load("file:rubric.md", tmp_path) == "Be kind."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "rubric.md: no such file"),
        (" \n", "rubric.md: the rubric is empty"),
        ("Be kind.\n- kind (weight 0): So.", "rubric.md: line 2: the weight of `kind` must be"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "rubric.md").write_text(content)
    with pytest.raises(UserError) as caught:
        load("file:rubric.md", tmp_path)
    assert words in str(caught.value)


def test_a_files_name_is_no_rubric() -> None:
    for name in ("rubric.md", "texts/My-rubric.TXT"):
        with pytest.raises(SettingsError, match=f'"file:{name}"'):
            load(name)
    assert load("Be kind. See rubric.md") == "Be kind. See rubric.md"


def test_a_rubric_that_is_to_be_written_is_the_general_one_until_then() -> None:
    assert load("write") == default_rubric()
    with pytest.raises(SettingsError, match="has not been written yet"):
        load(" write")  # which asks nobody to write it


def test_criteria_are_lines_with_a_weight() -> None:
    rubric = """Judge as an editor would.
- brief (weight 2): At most one sentence.
* no_jargon (Weight: 0.5) : Plain words (weight of words: none).
  + in the tone-of voice(weight=1):Calm.
Thank you."""
    assert parse_criteria(rubric) == (
        Criterion(name="brief", weight=2.0, text="At most one sentence."),
        Criterion(name="no_jargon", weight=0.5, text="Plain words (weight of words: none)."),
        Criterion(name="in the tone-of voice", weight=1.0, text="Calm."),
    )
    assert without_weights(rubric).splitlines() == [
        "Judge as an editor would.",
        "- brief: At most one sentence.",
        "- no_jargon: Plain words (weight of words: none).",
        "- in the tone-of voice: Calm.",
        "Thank you.",
    ]
    for criterion in parse_criteria(rubric):
        assert parse_criteria(criterion.line) == (criterion,)


@pytest.mark.parametrize("rubric", ["- brief: at most one sentence", "The weight 2 counts.", "- one\n- two"])
def test_other_text_is_judged_by_as_a_whole(rubric: str) -> None:
    assert parse_criteria(rubric) == ()
    assert without_weights(rubric) == rubric


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("- brief (weight 0): x", "the weight of `brief` must be a number above 0"),
        ("- brief (weight -1): x", "must be a number above 0"),
        ("- brief (weight nan): x", "must be a number above 0"),
        ("- brief (weight inf): x", "must be a number above 0"),
        ("- brief (weight two): x", "must be a number above 0"),
        ("- brief (weight ): x", "must be a number above 0"),
        ("- brief (weight 1):  ", "`brief` does not say what is wanted"),
        ("- (weight 1): x", "the name `` must be of letters"),
        (f"- {'x' * 41} (weight 1): x", "at most 40"),
        ('- br"ief (weight 1): x', "must be of letters"),
        ("- Kind (weight 1): x", "the criterion `Kind` is there twice"),
        ("- k-i_n d (weight 1): x", "the names `kind` and `k-i_n d` differ in signs alone"),
        ("- \uff4bind (weight 1): x", "the names `kind` and `\uff4bind` differ in signs alone"),
        ("- _ - (weight 1): x", "must be of letters"),
        ("- brief: x", "this criterion has no weight, others have"),
    ],
)
def test_criteria_that_cannot_be_used_name_their_line(line: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(f"Judge.\n- kind (weight 1): It is kind.\n{line}")
    assert str(caught.value).startswith("reward.rubric, line 3: ")
    assert words in str(caught.value)


def written(*criteria: tuple[Any, Any, Any]) -> str:
    return json.dumps({"criteria": [{"name": n, "description": d, "weight": w} for n, d, w in criteria]})


GOOD = [("brief", "At most\n one sentence.", 2), ("kind", "It is kind.", "1.5"), ("true", "No lie.", 1)]


def write(*replies: Any) -> tuple[str, Scripted]:
    client = Scripted(replies)
    return asyncio.run(write_rubric("Be {{polite}}.", client)), client


def test_a_written_rubric_is_weighted_criteria() -> None:
    text, client = write(written(*GOOD))
    assert text == (
        "- brief (weight 2): At most one sentence.\n"
        "- kind (weight 1.5): It is kind.\n"
        "- true (weight 1): No lie."
    )
    assert [c.weight for c in parse_criteria(text)] == [2.0, 1.5, 1.0]
    request = client.requests[0]
    assert (request.purpose, request.temperature) == ("rubric", 0.3)
    assert "<task>\nBe {{polite}}.\n</task>" in request.messages[0]["content"]
    assert "from 3 to 7 criteria" in request.messages[0]["content"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (written(*GOOD[:2]), "There are 2 criteria; write from 3 to 7."),
        (written(*[(f"c{n}", "x", 1) for n in range(8)]), "There are 8 criteria"),
        (written(*GOOD[:2], ("true", "No lie.", 0)), "Criterion 3: the weight of `true` must be"),
        (written(*GOOD[:2], ("true", "No lie.", True)), "Criterion 3: the weight of `true` must be"),
        (written(*GOOD[:2], ("true", "No lie.", None)), "Criterion 3: the weight of `true` must be"),
        (written(*GOOD[:2], ("BRIEF", "No lie.", 1)), "Criterion 3: the criterion `BRIEF` is there twice"),
        (
            written(("to-the point", "x", 1), GOOD[1], ("to the_point", "y", 1)),
            "Criterion 3: the names `to-the point` and `to the_point` differ in signs alone",
        ),
        (written(*GOOD[:2], ("true", "", 1)), "Criterion 3: `true` does not say what is wanted"),
        (written(*GOOD[:2], (None, "x", 1)), "Criterion 3: the name"),
        ('{"criteria": ["brief"]}', 'a list "criteria" of objects'),
    ],
)
def test_a_rubric_that_cannot_be_used_is_sent_back(reply: str, words: str) -> None:
    text, client = write(reply, written(*GOOD))
    assert text.startswith("- brief (weight 2)")
    assert words in client.requests[1].messages[-1]["content"]


def test_a_rubric_that_cannot_be_had_stops_with_a_way_out() -> None:
    with pytest.raises(
        MachineError, match=r"scripted/model wrote no rubric .*There are 0 criteria.*file:PATH"
    ):
        write(*3 * ['{"criteria": []}'])
    with pytest.raises(MachineError, match="too busy"):
        write(CallFailed("too busy."))
