"""What is said of rows before anybody trains on them, with a word as a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from refine_rl.errors import UserError
from refine_rl.prompts.describe import Description, Lengths, describe
from refine_rl.prompts.json_rows import RowError


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def of(*rows: object, **options: Any) -> Description:
    return describe("a.jsonl", [(str(n), row) for n, row in enumerate(rows, 1)], words, **options)


def text(words: int, word: str = "w") -> str:
    return " ".join(f"{word}{n}" for n in range(words))


def test_pairs() -> None:
    pairs = [{"prompt": text(n), "answer": text(60, "a"), "split": "train", "n": n} for n in range(60, 160)]
    pairs[0]["split"] = "held_out"
    pairs[1] |= {"answer": " ", "n": None}
    found = of(*pairs, max_tokens=150)
    assert (found.rows, found.prompt, found.answer) == (100, "prompt", "answer")
    assert dict(found.splits) == {"train": 99, "held_out": 1}
    assert (found.empty_prompts, found.empty_answers, found.equal_rows, found.equal_prompts) == (0, 1, 0, 0)
    assert list(found.over) == [64, 128, 150, 256, 512, 1024, 2048, 4096]
    assert found.over[64] == (0.95, 0.99)  # 65 ... 159; all but the 61 of the empty answer
    assert found.over[150] == (0.09, 0.69)  # with the answer's 60 words from 91 on
    assert found.over[256] == (0, 0)
    columns = {column.name: column for column in found.columns}
    assert columns["prompt"].tokens == Lengths(quantiles=(60, 65, 110, 154, 159), mean=109.5)
    assert columns["n"].types == {"whole number": 0.99}
    assert (columns["n"].missing, columns["n"].tokens) == (0.01, None)


def test_duplicates_and_near_duplicates() -> None:
    prompts = [text(40), text(40).upper(), text(39) + " x", text(20), text(20, "y")]
    found = of(*({"prompt": prompt} for prompt in prompts), {"prompt": prompts[0]})
    assert (found.equal_rows, found.equal_prompts) == (1, 2)
    assert (found.near_prompts, found.near_compared) == (1, 4)
    assert (found.answer, found.over[64]) == ("", (0, None))


def test_chats() -> None:
    ask = [{"role": "system", "content": "Be kind now"}, {"role": "user", "content": "Say hi"}]
    answered = [*ask, {"role": "assistant", "content": "Hi there you all"}]
    found = of({"messages": answered}, {"messages": ask}, max_tokens=8)
    assert (found.prompt, found.answer, found.empty_answers) == ("messages", "messages", 1)
    assert found.over[8] == (0, 0.5)
    assert found.columns[0].types == {"chat": 1}
    assert found.columns[0].tokens == Lengths(quantiles=(5, 5, 5, 9, 9), mean=7)
    assert of({"messages": ask}).answer == ""


def test_values_of_all_kinds() -> None:
    kinds = [True, 1, 1.5, "a", [1], {"b": 1}, None, ""]
    (column,) = of(*({"x": value} for value in kinds)).columns
    shares = {"text": 2 / 8} | dict.fromkeys(
        ["true or false", "whole number", "number", "list", "object"], 1 / 8
    )
    assert (column.types, column.missing) == (shares, 2 / 8)


def test_columns_of_other_names() -> None:
    rows = [{"post": "a b", "tldr": "c"}]
    found = of(*rows, prompt="post", answer="tldr", max_tokens=2)
    assert found.over[2] == (0, 1)
    with pytest.raises(
        UserError, match=r"a.jsonl: it has no column `pots` \(--prompt\); did you mean `post`\?"
    ):
        of(*rows, prompt="pots")
    with pytest.raises(UserError, match=r"no column `answers` \(--answer\); there are `post`, `tldr`"):
        of(*rows, answer="answers")
    assert (of(*rows).prompt, dict(of(*rows).over)) == ("", {})


def test_rows_that_cannot_be_read_are_named() -> None:
    found = of({"prompt": "a"}, RowError("is not JSON"), [1])
    assert found.broken == (("2", "is not JSON"), ("3", "is not an object"))
    assert (found.rows, found.columns[0].missing) == (3, 0)
    with pytest.raises(UserError, match=r"a.jsonl:1 is not JSON \(so it is with all 2 rows\)"):
        of(RowError("is not JSON"), RowError("is not JSON"))
