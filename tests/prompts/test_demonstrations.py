"""Rows to imitate: pairs and chats, what is wrong with a row, and which rows validate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from make import prompt
from refine_rl.errors import Interrupted, UserError
from refine_rl.prompts.demonstrations import Names, Shown, read_demonstrations

PAIRS = [{"prompt": f"What is {n}?", "answer": f"It is {n}."} for n in range(40)]


def read(folder: Path, rows: Sequence[Any], names: Names | None = None, **more: Any) -> Shown:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_demonstrations("file:a.jsonl", folder, names or Names(), **more)


def problem(folder: Path, row: Any, names: Names | None = None) -> str:
    """What is said of this row behind a good one."""
    good = {"prompt": "Hi", "answer": "Ho"}
    with pytest.raises(UserError) as caught:
        read(
            folder, [good if isinstance(row, Mapping) and "prompt" in row else {"messages": CHAT}, row], names
        )
    start = f"{folder / 'a.jsonl'}:2 "
    assert str(caught.value).startswith(start)
    return str(caught.value)[len(start) :]


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def test_a_pair_and_a_chat_are_the_same_chat(tmp_path: Path) -> None:
    pair = {"prompt": "Hi", "answer": "Ho", "other": 3}
    shown = read(tmp_path, [pair, {"messages": CHAT}, {"prompt": CHAT[:1], "answer": "Ho"}], validation=0)
    assert [list(row.messages) for row in shown.rows] == [CHAT] * 3
    assert [row.name for row in shown.rows] == [f"file:a.jsonl:{n}" for n in (1, 2, 3)]
    assert shown.lines == ()


def test_columns_have_names_of_their_own_and_a_system_message_goes_before(tmp_path: Path) -> None:
    rows = [
        {"prompt": "no", "q": "Hi", "a": "Ho"},
        {"q": [{"role": "system", "content": "S"}, *CHAT[:1]], "a": "Ho"},
    ]
    shown = read(tmp_path, rows, Names(prompt="q", answer="a"), system="Be kind.", validation=0)
    assert [[m["content"] for m in row.messages] for row in shown.rows] == [
        ["Be kind.", "Hi", "Ho"],
        ["S", "Hi", "Ho"],
    ]
    assert read(tmp_path, [{"chat": CHAT}], Names(messages="chat"), validation=0).rows[0].answer == "Ho"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Hi", "answer": ""}, "has an empty answer"),
        ({"prompt": "Hi", "answer": None}, "has an empty answer"),
        ({"prompt": "  ", "answer": "Ho"}, "has an empty prompt"),
        ({"prompt": "Hi", "answer": 5}, "has a `answer` that is not text: 5"),
        (
            {"prompt": "Hi", "completion": "Ho"},
            "has no column `answer`; there are `prompt`, `completion`: "
            "call `completion` `answer`, as other rows do",
        ),
        ({"prompt": "Hi"}, "has no column `answer`; there is `prompt`"),
        ({"messages": CHAT[:1]}, "has no answer of the assistant"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "has no answer of the assistant"),
        (
            {"messages": [*CHAT, {"role": "system", "content": "S"}]},
            "has a system message that is not the first",
        ),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "has a message 1 with the role 'bot'"),
        ({"messages": "Hi"}, "has a `messages` that is not a list of {role, content}"),
        ([1], 'is not an object: write {"prompt": "...", "answer": "..."}'),
    ],
)
def test_what_is_wrong_with_a_row_is_said_by_line(tmp_path: Path, row: Any, said: str) -> None:
    assert problem(tmp_path, row).startswith(said)


def test_a_column_that_is_named_and_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no column `anwser` \(sft\.answer\); .*takes `answer`"):
        read(tmp_path, PAIRS, Names(answer="anwser"))
    (tmp_path / "a.csv").write_text("prompt,reply\nHi,Ho\n")
    with pytest.raises(UserError, match=r"a\.csv:1 has no column `answer`; there are `prompt`, `reply`"):
        read_demonstrations("file:a.csv", tmp_path, Names())


def test_a_tenth_validates_and_those_that_ask_the_same_stay_together(tmp_path: Path) -> None:
    rows = [*PAIRS, *({**p, "prompt": p["prompt"].lower(), "answer": "Who knows?"} for p in PAIRS)]
    shown = read(tmp_path, rows)
    validation = {row.messages[0]["content"].lower() for row in shown.rows if row.split == "validation"}
    train = {row.messages[0]["content"].lower() for row in shown.rows if row.split == "train"}
    assert len(validation) == 4  # 8 of 80 rows
    assert not validation & train

    again = read(tmp_path, rows[::-1])
    assert {r.messages[0]["content"].lower() for r in again.rows if r.split == "validation"} == validation
    other = read(tmp_path, rows, seed=1)
    assert {r.messages[0]["content"].lower() for r in other.rows if r.split == "validation"} != validation


@pytest.mark.parametrize(("asked", "number"), [(7, 7), (0.25, 10), (0, 0), (None, 4)])
def test_so_many_validate(tmp_path: Path, asked: Any, number: int) -> None:
    shown = read(tmp_path, PAIRS, validation=asked)
    assert [row.split for row in shown.rows].count("validation") == number


def test_too_many_that_ask_the_same_are_no_validation_and_that_is_said(tmp_path: Path) -> None:
    shown = read(tmp_path, [PAIRS[0]] * 5 + [PAIRS[1]] * 2, validation=3)
    assert [row.split for row in shown.rows].count("validation") == 2
    assert shown.lines == (
        "2 of the 3 rows of sft.validation validate: rows that ask the same stay together",
    )


def test_splits_of_the_rows_hold_and_held_out_ones_are_left_out(tmp_path: Path) -> None:
    rows = [
        {**p, "split": s} for p, s in zip(PAIRS, ("train", "validation", "held_out", "test"), strict=False)
    ]
    shown = read(tmp_path, rows)
    assert [row.split for row in shown.rows] == ["train", "validation"]
    assert shown.lines == ("2 rows left out: held out by their column `split`",)


def test_what_a_held_out_prompt_asks_is_not_shown(tmp_path: Path) -> None:
    shown = read(
        tmp_path, PAIRS, validation=0, without=[prompt(1, "what is  7?"), prompt(2, "Something else")]
    )
    assert len(shown.rows) == 39
    assert "What is 7?" not in {row.messages[0]["content"] for row in shown.rows}
    assert shown.lines == ("1 row left out: they ask what a held-out prompt asks",)


def test_a_system_message_or_a_later_turn_hides_no_held_out_question(tmp_path: Path) -> None:
    """Neither the system message of the rows nor that of the prompts makes another question of it; and a chat
    that begins with it shows its answer too."""
    said = [("user", "What is 7?"), ("assistant", "7"), ("user", "Sure?"), ("assistant", "Yes.")]
    chat = [{"role": role, "content": text} for role, text in said]
    asked = prompt(1, "what is  7?")
    held_out = replace(asked, messages=({"role": "system", "content": "Be brief."}, *asked.messages))
    rows = [*PAIRS, {"messages": chat}]
    shown = read(tmp_path, rows, validation=0, without=[held_out], system="Count.")
    assert len(shown.rows) == 39
    assert shown.lines == ("2 rows left out: they ask what a held-out prompt asks",)


def test_rows_that_ask_the_same_validate_together_whatever_the_system_message_says(tmp_path: Path) -> None:
    def row(manner: str, number: int) -> dict[str, Any]:
        said = (("system", manner), ("user", f"What is {number}?"), ("assistant", str(number)))
        return {"messages": [{"role": role, "content": text} for role, text in said]}

    shown = read(
        tmp_path, [row(manner, n) for n in range(20) for manner in ("Be brief.", "Be kind.")], validation=8
    )
    asked: dict[str, set[str]] = {}
    for found in shown.rows:
        asked.setdefault(found.split, set()).add(found.messages[1]["content"])
    assert len(asked["validation"]) == 4
    assert not asked["validation"] & asked["train"]


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no rows in it"):
        read(tmp_path, [])
    with pytest.raises(UserError, match=r"sft\.validation = 40, but there are only 40 rows"):
        read(tmp_path, PAIRS, validation=40)
    with pytest.raises(UserError, match=r"no row is left to train on \(1 row left out: held out"):
        read(tmp_path, [{**PAIRS[0], "split": "held_out"}])


def test_the_sum_is_of_all_that_is_read(tmp_path: Path) -> None:
    one, same = read(tmp_path, PAIRS), read(tmp_path, PAIRS)
    other = read(tmp_path, [*PAIRS[:-1], {**PAIRS[-1], "answer": "No."}])
    assert one.sha256 == same.sha256 != other.sha256


def test_an_answer_may_be_given_and_not_imitated(tmp_path: Path) -> None:
    chat = [*CHAT, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}]
    marked = [chat[0], {**chat[1], "train": False}, chat[2], {**chat[3], "train": True}]
    plain = read(tmp_path, [{"messages": chat}], validation=0)
    shown = read(tmp_path, [{"messages": marked}], validation=0)
    assert shown.rows[0].messages == plain.rows[0].messages
    assert (plain.rows[0].given, shown.rows[0].given) == (frozenset(), {1})
    assert shown.sha256 != plain.sha256
    system = read(tmp_path, [{"messages": marked}], system="Be kind.", validation=0).rows[0]
    assert (system.messages[2]["content"], system.given) == ("Ho", {2})

    last = read(tmp_path, [{"messages": [*chat[:3], {**chat[3], "train": False}]}], validation=0).rows[0]
    assert (last.answer, last.asked) == ("Ho", (CHAT[0],))


def test_what_is_wrong_with_marks_of_training(tmp_path: Path) -> None:
    asks, answers = CHAT
    assert problem(tmp_path, {"messages": [asks, {**answers, "train": False}]}) == (
        'has no answer to imitate: each has "train": false'
    )
    assert problem(tmp_path, {"messages": [{**asks, "train": False}, answers]}) == (
        'has a message 1 with "train", and it is not the assistant\'s'
    )
    assert problem(tmp_path, {"messages": [asks, {**answers, "train": "no"}]}) == (
        'has a message 2 whose "train" is neither true nor false'
    )


def test_reading_ends_at_a_pause_between_rows(tmp_path: Path) -> None:
    """Whoever pressed Ctrl-C waited for all of 70,000 rows."""
    asked = iter([False, False, True])

    def pause() -> None:
        if next(asked):
            raise Interrupted("Interrupted.")

    with pytest.raises(Interrupted):  # and not the error of the fourth row
        read(tmp_path, [{"prompt": str(n), "answer": "b"} for n in range(3)] + ["broken"], pause=pause)
