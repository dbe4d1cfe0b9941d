"""Duplicates, splits and their sizes."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any

import pytest

from refine_rl.prompts.candidates import Candidate, candidate
from refine_rl.prompts.curate import drop_duplicates
from refine_rl.prompts.near_duplicates import features, near_duplicates, similarity
from refine_rl.prompts.split import by_hash, split_candidates
from refine_rl.types import Split

Asked = dict[Split, int | None]
NOTHING: Asked = {"train": None, "validation": None, "held_out": None}


def rows(*given: Any) -> list[Candidate]:
    made = [row if isinstance(row, dict) else {"prompt": row} for row in given]
    return [candidate(row, f"line {number}") for number, row in enumerate(made, 1)]


def many(count: int) -> list[Candidate]:
    return rows(*(f"a{i} b{i} c{i}" for i in range(count)))


def sizes(chosen: dict[Split, list[Candidate]]) -> tuple[int, int, int]:
    return len(chosen["train"]), len(chosen["validation"]), len(chosen["held_out"])


def origins(candidates: list[Candidate]) -> list[str]:
    return [c.origin for c in candidates]


def test_exact_duplicates_whatever_case_space_and_unicode_form() -> None:
    kept, dropped = drop_duplicates(rows("Say  Café.", "say cafe\u0301.\n", "Say cafe.", "SAY CAFÉ."))
    assert origins(kept) == ["line 1", "line 3"]
    assert [(d.origin, d.kind, d.why) for d in dropped] == [
        ("line 2", "duplicate", "the same as line 1"),
        ("line 4", "duplicate", "the same as line 1"),
    ]


def test_signs_that_look_alike_are_not_the_same() -> None:
    texts = ["What is 2²?", "What is 22?", "What is ½?", "What is 1⁄2?", "Say ①.", "Say 1."]
    assert len(drop_duplicates(rows(*texts))[0]) == 6


def test_the_same_question_with_other_data_is_another_prompt() -> None:
    given = rows(
        {"prompt": "How tall is it?", "answer": 3, "source": {"a": 1, "b": 2}},
        {"prompt": "how tall is it?", "answer": 4, "source": {"a": 1, "b": 2}},
        {"prompt": "How tall is it?", "answer": 3, "source": {"b": 2, "a": 1}},
    )
    kept, dropped = drop_duplicates(given)
    assert (origins(kept), origins(dropped)) == (["line 1", "line 2"], ["line 3"])
    assert dropped[0].text == "How tall is it?"


@pytest.mark.parametrize("near_duplicate", [0.85, 1])
def test_what_asks_the_same_stands_in_one_split(near_duplicate: float) -> None:
    """Also where near-duplicates are let through: the three splits are disjoint."""
    given = [{"prompt": f"a{i // 2} b{i // 2} c{i // 2}", "answer": i} for i in range(60)]
    chosen, dropped = split_candidates(by_hash(rows(*given)), NOTHING, near_duplicate)
    texts = {split: {c.messages[0]["content"] for c in found} for split, found in chosen.items()}
    assert not texts["train"] & texts["held_out"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["held_out"]
    assert sum(map(len, chosen.values())) + len(dropped) == 60
    assert {d.kind for d in dropped} <= {"duplicate"}
    assert len(dropped) <= 2  # one at each border between splits
    told = rows(
        {"prompt": "x", "answer": 1, "split": "train"}, {"prompt": "X", "answer": 2, "split": "held_out"}
    )
    chosen, dropped = split_candidates(told, NOTHING, near_duplicate)
    assert sizes(chosen) == (0, 0, 1)
    assert [(d.origin, d.kind, d.why) for d in dropped] == [
        ("line 1", "duplicate", "asks the same as line 2 in held_out")
    ]


def test_of_duplicates_the_one_farthest_from_training_stays() -> None:
    kept, _ = drop_duplicates(
        rows("a", {"prompt": "a", "split": "train"}, {"prompt": "A", "split": "held_out"}, "b")
    )
    assert origins(kept) == ["line 3", "line 4"]


def test_another_system_message_or_role_is_another_prompt() -> None:
    user = {"role": "user", "content": "Hi"}
    chats = [[{"role": "system", "content": s}, user] for s in ("Be kind.", "Be rude.")]
    chats.append([{"role": "assistant", "content": "Be kind."}, user])
    assert len(drop_duplicates(rows(*({"messages": chat} for chat in chats)))[0]) == 3


def test_the_order_is_that_of_blake2b_of_the_text() -> None:
    found = by_hash(rows("One TWO", "three", "four"))
    expected = sorted(
        ["one two", "three", "four"], key=lambda t: blake2b(t.encode(), digest_size=16).digest()
    )
    assert [c.messages[0]["content"].lower() for c in found] == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, (0, 0, 1)),
        (2, (1, 0, 1)),
        (10, (7, 1, 2)),
        (25, (18, 2, 5)),
        (320, (224, 32, 64)),
        (1000, (868, 32, 100)),
    ],
)
def test_default_sizes(count: int, expected: tuple[int, int, int]) -> None:
    chosen, dropped = split_candidates(many(count), NOTHING, 0.85)
    assert (sizes(chosen), dropped) == (expected, [])


def test_sizes_that_are_asked_for() -> None:
    chosen, dropped = split_candidates(many(20), {"train": 5, "validation": 0, "held_out": 4}, 0.85)
    assert sizes(chosen) == (5, 0, 4)
    assert {d.kind for d in dropped} == {"surplus"}
    assert len(dropped) == 11


def test_the_split_does_not_depend_on_the_order_of_the_file() -> None:
    candidates = many(60)
    shuffled = random.Random(1).sample(candidates, k=60)
    first, _ = split_candidates(by_hash(candidates), NOTHING, 0.85)
    second, _ = split_candidates(by_hash(shuffled), NOTHING, 0.85)
    assert {k: origins(v) for k, v in first.items()} == {k: origins(v) for k, v in second.items()}


def test_splits_that_are_given_are_obeyed() -> None:
    given = [
        {"prompt": f"a{i} b{i} c{i}", "split": s}
        for i, s in enumerate(["train", "held_out", "validation"] * 3)
    ]
    chosen, _ = split_candidates(rows(*given), NOTHING, 0.85)
    assert {split: {c.split for c in found} for split, found in chosen.items()} == {
        "train": {"train"},
        "validation": {"validation"},
        "held_out": {"held_out"},
    }
    fewer, dropped = split_candidates(rows(*given), {**NOTHING, "held_out": 1}, 0.85)
    assert sizes(fewer) == (3, 3, 1)  # the other held-out ones are trained on by nobody
    assert [d.kind for d in dropped] == ["surplus", "surplus"]


def test_rows_without_a_split_fill_up() -> None:
    given = rows({"prompt": "x y z", "split": "held_out"}, *(f"a{i} b{i} c{i}" for i in range(10)))
    chosen, _ = split_candidates(given, NOTHING, 0.85)
    assert sizes(chosen) == (9, 1, 1)
    chosen, _ = split_candidates(given, {**NOTHING, "held_out": 3}, 0.85)
    assert sizes(chosen) == (7, 1, 3)
    assert "line 1" in origins(chosen["held_out"])


def test_near_duplicates_leave_the_split_nearer_to_training_and_are_replaced() -> None:
    base = " ".join(f"w{i}" for i in range(20))
    given = rows(
        {"prompt": base, "split": "held_out"},
        {"prompt": f"{base} more", "split": "validation"},
        {"prompt": f"new {base}", "split": "train"},
        {"prompt": f"{base} a b c d e f", "split": "train"},
        {"prompt": "one two three four", "split": "train"},
        {"prompt": "one two three four five", "split": "train"},
    )
    chosen, dropped = split_candidates(given, {**NOTHING, "train": 2}, 0.85)
    assert {split: origins(found) for split, found in chosen.items()} == {
        "train": ["line 4", "line 5"],
        "validation": [],
        "held_out": ["line 1"],
    }
    assert [(d.origin, d.kind) for d in dropped] == [
        ("line 2", "near-duplicate"),
        ("line 3", "near-duplicate"),
        ("line 6", "surplus"),
    ]
    assert dropped[0].why == f"0.95 like line 1 in held_out ({base[:57]}...)"
    assert sizes(split_candidates(given, NOTHING, 1.0)[0]) == (4, 1, 1)  # 1 turns it off


def test_no_pair_across_splits_is_near() -> None:
    rng = random.Random(2)
    candidates, _ = drop_duplicates(
        rows(*(" ".join(rng.choices("abc", k=rng.randint(1, 7))) for _ in range(150)))
    )
    chosen, dropped = split_candidates(by_hash(candidates), {**NOTHING, "held_out": 8, "validation": 6}, 0.5)
    assert sizes(chosen)[1:] == (6, 8)
    assert any(d.kind == "near-duplicate" for d in dropped)
    assert sum(sizes(chosen)) + len(dropped) == len(candidates)
    labelled = [(s, features(c.messages[0]["content"])) for s, found in chosen.items() for c in found]
    assert all(similarity(a, b) < 0.5 for s, a in labelled for t, b in labelled if s != t)


def test_the_same_question_under_another_system_message_does_not_cross_splits() -> None:
    user = {"role": "user", "content": "Where is my order?"}
    given = rows(
        {"messages": [{"role": "system", "content": "Be kind."}, user], "split": "held_out"},
        {"messages": [{"role": "system", "content": "Answer in verse."}, user], "split": "train"},
    )
    chosen, dropped = split_candidates(given, NOTHING, 0.85)
    assert (sizes(chosen), [d.origin for d in dropped]) == ((0, 0, 1), ["line 2"])


@pytest.mark.parametrize("near", [0.1, 0.85])
@pytest.mark.parametrize("train", [3, 40, 59])
def test_of_a_large_set_only_those_that_may_be_chosen_are_compared(
    monkeypatch: pytest.MonkeyPatch, train: int, near: float
) -> None:
    """The result is that of comparing all, also where so many are near-duplicates that all are needed."""
    randomly = random.Random(0)
    candidates = rows(*(" ".join(randomly.choices("abcdef", k=6)) for _ in range(400)))
    asked: Asked = {"train": train, "validation": None, "held_out": 5}
    whole = split_candidates(candidates, asked, near)
    compared: list[int] = []

    def counted(texts: list[str], *arguments: Any) -> Any:
        compared.append(len(texts))
        return near_duplicates(texts, *arguments)

    monkeypatch.setattr("refine_rl.prompts.split._SPARE", 4)
    monkeypatch.setattr("refine_rl.prompts.split.near_duplicates", counted)
    assert split_candidates(candidates, asked, near) == whole
    assert compared == [4 + 2 * (train + 32 + 5), *([400] if near == 0.1 else [])]


def test_where_a_world_plays_the_data_are_the_question() -> None:
    """All games may ask the same; the answer that they are about tells them apart."""
    games = [candidate({"prompt": "play", "answer": str(n)}, f"f:{n}") for n in range(10)]
    asked: dict[Split, int | None] = {"train": 6, "validation": 2, "held_out": 2}
    chosen, dropped = split_candidates(games, asked, 1.0, with_data=True)
    assert sizes(chosen) == (6, 2, 2)
    assert dropped == []
    twins = [candidate({"prompt": "play", "answer": "0", "split": s}, s) for s in ("train", "held_out")]
    open_: dict[Split, int | None] = {"train": None, "validation": None, "held_out": None}
    assert sizes(split_candidates(twins, open_, 1.0, with_data=True)[0]) == (0, 0, 1)
