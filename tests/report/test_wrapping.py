"""Lines that fit a terminal."""

from __future__ import annotations

import shlex

import pytest

from refine_rl.report.wrapping import wrap

ON = (
    "To go on all the same: refine train --resume 'my runs/a' --set grpo.all_cut_patience=10 "
    "--set grpo.steps=9"
)


@pytest.mark.parametrize("width", range(30, 130, 7))
@pytest.mark.parametrize(
    "text",
    [
        "A sentence of many words, of several; between them blanks alone, and numbers: 0.123 and 12 %.",
        "  machine  3.67 M weights on cpu in bfloat16; measured now: matrices 0.29 TFLOP/s, memory 32 GB/s",
        "one\n\n  two, with a line that is long enough to be broken somewhere in its middle\nthree",
    ],
)
def test_every_word_is_there_whole_and_no_line_is_too_long(text: str, width: int) -> None:
    lines = wrap(text, width).split("\n")
    assert " ".join(lines).split() == text.split()
    assert max(map(len, lines)) <= width
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [50, 60, 72, 90])
@pytest.mark.parametrize(
    "form", ["{}", "Nothing was lost. `{}`, then look again at what it says, and so on."]
)
def test_a_command_is_taken_back_by_a_shell(width: int, form: str) -> None:
    command = ON.partition(": ")[2]
    text = f"To go on: {command}" if form == "{}" else form.format(command)
    wrapped = wrap(text, width)
    start = wrapped.index("refine")
    end = wrapped.index("`", start) if "`" in wrapped else len(wrapped)
    assert shlex.split(wrapped[start:end].replace("\\\n", " ")) == shlex.split(command)
    assert max(map(len, wrapped.split("\n"))) <= width
    for line in wrapped[start:end].split("\n")[:-1]:
        assert line.endswith(" \\")


def test_a_command_is_broken_before_its_flags() -> None:
    assert wrap(ON, 60).split("\n") == [
        "To go on all the same: refine train --resume 'my runs/a' \\",
        "  --set grpo.all_cut_patience=10 --set grpo.steps=9",
    ]


def test_interval_bounds_stay_together_and_a_long_word_whole() -> None:
    assert wrap("tuned 0.177 and after that [0.065, 0.301], it says", 36).split("\n") == [
        "tuned 0.177 and after that",
        "[0.065, 0.301], it says",
    ]
    path = "/a/" + "long/" * 8 + "name"  # 47 columns
    assert wrap(f"          written to {path}", 50).split("\n") == [
        "          written to",
        f"   {path}",
    ]
    assert wrap(f"see {path * 2} there", 50).split("\n") == ["see", path * 2, "there"]


def test_wide_signs_count_as_two_columns() -> None:
    assert wrap("漢字漢字漢字 漢字漢字漢字 漢字漢字漢字", 30).split("\n") == [
        "漢字漢字漢字 漢字漢字漢字",
        "漢字漢字漢字",
    ]


def test_a_sentence_behind_a_command_is_no_part_of_it() -> None:
    text = "a has no model yet: refine train --resume runs/a. Its checkpoints so far: 2; one: --checkpoint 2."
    assert wrap(text, 60).split("\n") == [
        "a has no model yet: refine train --resume runs/a. Its",
        "checkpoints so far: 2; one: --checkpoint 2.",
    ]
