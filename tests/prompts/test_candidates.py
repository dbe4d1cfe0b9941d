"""Rows of a source: what is accepted, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from refine_rl.prompts.candidates import RowError, candidate

USER = {"role": "user", "content": "Hi"}


def test_everything_but_the_known_columns_is_data() -> None:
    row = {
        "prompt": "Say hi.",
        "id": 7,
        "split": "held_out",
        "facets": {"style": "pirate", "level": 2},
        "answer": "Hi!",
        "parts": (1, 2),
    }
    found = candidate(row, "file:a.jsonl:1")
    assert found.messages == ({"role": "user", "content": "Say hi."},)
    assert (found.id, found.split, found.origin) == ("7", "held_out", "file:a.jsonl:1")
    assert found.facets == {"style": "pirate", "level": "2"}
    assert found.data == {"answer": "Hi!", "parts": [1, 2]}


def test_a_chat_may_have_turns_before_the_last_message() -> None:
    chat = [{"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "Yes?"}, USER]
    assert candidate({"messages": chat}, "").messages == tuple(chat)


def test_a_row_of_a_run_is_read_again() -> None:
    row = {
        "id": "p1",
        "split": "train",
        "messages": [USER],
        "facets": {},
        "data": {"answer": 3},
        "origin": "x",
    }
    again = candidate(row, "here")
    assert (again.data, again.origin, again.recorded) == ({"answer": 3}, "x", True)
    other = candidate({**row, "more": 1}, "here")  # no record of ours: its columns are data
    assert (other.data, other.recorded) == ({"answer": 3, "origin": "x", "more": 1}, False)
    assert candidate({"prompt": "a", "data": "a text"}, "").data == {"data": "a text"}


def test_empty_cells_count_as_absent() -> None:
    found = candidate({"prompt": "a", "messages": "", "id": "", "split": None, "facets": "", "x": ""}, "")
    assert (found.id, found.split, found.facets, found.data) == (None, None, {}, {"x": ""})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("Say hi.", "is not an object with"),
        ({"text": "a"}, "has no prompt and no messages"),
        ({"prompt": " \t"}, "has an empty prompt"),
        ({"prompt": ""}, "has an empty prompt"),
        ({"prompt": None}, "has an empty prompt"),
        ({"prompt": 5}, "has a prompt that is not text: 5"),
        ({"prompt": [USER]}, "call the column `messages`"),
        ({"prompt": "a", "messages": [USER]}, "both a prompt and messages"),
        ({"messages": []}, "not a list of"),
        ({"messages": "Hi"}, "not a list of"),
        ({"messages": [USER, "Hi"]}, "a message 2 that is not exactly"),
        ({"messages": [{**USER, "weight": 1}]}, "a message 1 that is not exactly"),
        (
            {"messages": [{"role": "human", "content": "Hi"}]},
            "role 'human'; roles are system, user, assistant",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a message 1 without text"),
        ({"messages": [{"role": "user", "content": " "}]}, "a message 1 without text"),
        ({"messages": [USER, {"role": "assistant", "content": "Yes"}]}, "into a column of its own"),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, "no message of the user at its end"),
        ({"messages": [USER, {"role": "system", "content": "Be kind."}, USER]}, "not the first message"),
        ({"prompt": "a", "id": 1.5}, "has an id that is neither"),
        ({"prompt": "a", "id": True}, "has an id that is neither"),
        (
            {"prompt": "a", "split": "test"},
            "splits are 'train', 'validation', 'held_out'; did you mean 'held_out'?",
        ),
        ({"prompt": "a", "split": "valid"}, "did you mean 'validation'?"),
        ({"prompt": "a", "facets": ["x"]}, "has facets that are not an object"),
        ({"prompt": "a", "facets": {"x": [1]}}, "has a facet 'x' that is neither"),
        ({"prompt": "a", "data": {"x": 1}, "x": 2}, "has 'x' both in its data and as a column"),
        ({"prompt": "a", "x": float("nan")}, "has a value that JSON cannot hold"),
        ({"prompt": "a", "x": object()}, "has a value that JSON cannot hold"),
        ({"prompt": "half a pair: \ud83d"}, "has a value that JSON cannot hold"),
    ],
)
def test_a_broken_row_is_described(row: Any, words: str) -> None:
    with pytest.raises(RowError) as caught:
        candidate(row, "")
    assert words in str(caught.value)
