"""From `prompts.source` to the prompts of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import SettingsError, UserError
from refine_rl.prompts import load_all_prompts, load_prompts
from refine_rl.prompts.sources import unseen
from refine_rl.report.coverage import cover
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import Prompt

GENERATOR = """
from dataclasses import dataclass

@dataclass
class Word:
    text: str

def prompts(split, count, seed):
    words = [Word(f"{split} {seed} {i % 40} x{i % 40}") for i in range(count)]
    rows = [{"prompt": w.text, "facets": {"split": split}} for w in words]
    return [{**row, "data": {"n": (i % 40,)}} for i, row in enumerate(rows)]
"""


def settings(folder: Path, source: str, seed: int = 0, **prompts: Any) -> Settings:
    data = {"task": "Say hi.", "prompts": {"source": source, **prompts}, "grpo": {"seed": seed}}
    return settings_from_dict(data, folder)


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "file:a.jsonl"


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"a{i} b{i} c{i}", "n": i, "facets": {"odd": str(i % 2)}} for i in range(count)]


def test_a_file_becomes_prompts(tmp_path: Path) -> None:
    rows = [*numbered(20), {"prompt": "A3 b3  C3", "n": 3}]
    prompts, report = load_prompts(settings(tmp_path, write(tmp_path, *rows), system="Be kind."))
    assert [p.id for p in prompts] == [f"p{i:04d}" for i in range(20)]
    assert [p.split for p in prompts] == ["train"] * 14 + ["validation"] * 2 + ["held_out"] * 4
    first = prompts[0]
    assert first.messages == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": f"a{first.data['n']} b{first.data['n']} c{first.data['n']}"},
    )
    assert first.origin == f"file:a.jsonl:{first.data['n'] + 1}"
    train = [p.data["n"] % 2 for p in prompts[:14]]
    validation = [p.data["n"] % 2 for p in prompts[14:16]]
    odd = [
        f"{name:<5}  {value:<5}  {train.count(value):>5}  {validation.count(value):>10}  "
        f"{10 - train.count(value) - validation.count(value):>8}"
        for name, value in (("odd", train[0]), ("", 1 - train[0]))
    ]
    assert [*report.summary(), *cover(prompts).lines()] == [
        "21 prompts read from file:a.jsonl",
        "1 dropped as exact duplicates",
        "kept 14 train, 2 validation, 4 held-out",
        "facet  value  train  validation  held-out",
        *odd,
    ]
    assert (report.read, report.count("duplicate"), report.splits["held_out"]) == (21, 1, 4)
    assert sum(cover(prompts).facets["odd"]["0"].values()) == 10


def test_order_of_the_file_and_seed_change_nothing(tmp_path: Path) -> None:
    def content(prompts: list[Prompt]) -> list[tuple[str, str, str]]:
        return [(p.id, p.split, p.text) for p in prompts]

    rows = numbered(40)
    first, _ = load_prompts(settings(tmp_path, write(tmp_path, *rows)))
    second, _ = load_prompts(settings(tmp_path, write(tmp_path, *reversed(rows)), seed=9))
    assert content(first) == content(second)
    assert [p.text for p in first if p.split == "train"] != [row["prompt"] for row in rows[:28]]


def test_given_ids_and_system_messages_stay(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hi you there"}]
    rows = [{"messages": chat, "id": "p0001", "split": "held_out"}, *numbered(3)]
    prompts, _ = load_prompts(settings(tmp_path, write(tmp_path, *rows), system="Be kind."))
    assert [p.id for p in prompts] == ["p0000", "p0001-2", "p0002", "p0001"]
    assert prompts[-1].messages == tuple(chat)


def test_too_few_prompts_are_refused_with_the_numbers(tmp_path: Path) -> None:
    source = write(tmp_path, *numbered(10), {"prompt": "a0 b0 c0", "n": 0})
    with pytest.raises(UserError) as caught:
        load_prompts(settings(tmp_path, source, train=8, held_out=4, validation=1))
    assert str(caught.value).startswith(
        "too few prompts: `prompts.train` needs 8 and got 5: 1 of 11 was a duplicate "
        "(11 prompts read from file:a.jsonl; 1 dropped as exact duplicates; "
        "kept 5 train (8 asked for), 1 validation, 4 held-out); "
    )
    assert "; add prompts or ask for fewer" in str(caught.value)  # no setting lets equal prompts in
    assert "near_duplicate" not in str(caught.value)
    with pytest.raises(UserError, match=r"`prompts.train` needs 1 and got 0"):
        load_prompts(settings(tmp_path, write(tmp_path, *numbered(1))))
    long = [{"prompt": f"one two three four five six seven eight nine ten eleven {w}"} for w in "abc"]
    with pytest.raises(
        UserError, match=r"near-dup.*; add prompts, ask for fewer, or drop less with a higher"
    ):
        load_prompts(settings(tmp_path, write(tmp_path, *long), near_duplicate=0.5))


def test_a_generator(tmp_path: Path) -> None:
    (tmp_path / "prompts.py").write_text(GENERATOR, encoding="utf-8")
    prompts, report = load_prompts(settings(tmp_path, "file:prompts.py", seed=5, train=50))
    counts = {"train": 40, "validation": 32, "held_out": 40}  # the generator repeats itself after 40
    assert report.splits == counts
    assert [*report.summary(), *cover(prompts).lines()] == [
        "146 prompts read from file:prompts.py",
        "34 dropped as exact duplicates",
        "kept 40 train (50 asked for), 32 validation, 40 held-out (64 asked for)",
        "facet  value       train  validation  held-out",
        "split  train          40           0         0",
        "       held_out        0           0        40",
        "       validation      0          32         0",
        "40 of 40 held-out prompts have a combination of facets that no other prompt has (1 combination)",
    ]
    assert [p.text for p in prompts[:2]] == ["train 5 0 x0", "train 5 1 x1"]  # in the generator's order
    assert prompts[1].origin == "file:prompts.py:train[1]"
    assert prompts[1].data == {"n": [1]}
    without, _ = load_prompts(settings(tmp_path, "file:prompts.py", validation=0))
    assert {p.split for p in without} == {"train", "held_out"}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "def prompts(split, count, seed):\n    return [{'prompt': 1 / 0}]",
            "prompts.py:2: ZeroDivisionError: ",
        ),
        ("import not_there", "prompts.py:1: ModuleNotFoundError: "),
        ("x = (", "prompts.py:1: SyntaxError: "),
        ("x = 1", "prompts.py: has no function prompts(split, count, seed)"),
        (
            "def prompts(split, count, seed):\n    return {}",
            "prompts.py: prompts('train', ...) must return a list, not",
        ),
        (
            "def prompts(split, count, seed):\n    return [{}]",
            "prompts.py:train[0] has no prompt and no messages (so it is with all 3 rows)",
        ),
        ("def prompts(split, count, seed):\n    return []", "prompts.py: there are no prompts in it"),
    ],
)
def test_a_broken_generator_is_named_by_line(tmp_path: Path, code: str, problem: str) -> None:
    (tmp_path / "prompts.py").write_text(code, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_prompts(settings(tmp_path, "file:prompts.py"))
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(problem)


def test_prompts_of_a_recipe(tmp_path: Path) -> None:
    own, _ = load_prompts(settings(tmp_path, "recipe:dots", train=30, held_out=7))
    counts = {split: sum(p.split == split for p in own) for split in ("train", "held_out")}
    assert counts == {"train": 30, "held_out": 7}
    assert {p.origin for p in own} == {"recipe:dots"}
    assert all("answer" in p.data for p in own)


def test_other_prompts_to_evaluate_on(tmp_path: Path) -> None:
    base = " ".join(f"w{i}" for i in range(20))
    given = [
        {"prompt": f"{base} x", "split": "train"},
        {"prompt": "one", "split": "validation"},
        {"prompt": "two", "split": "held_out"},
    ]
    own = settings(tmp_path, write(tmp_path, *given), system="Be kind.")
    mine, _ = load_prompts(own)
    (tmp_path / "b.txt").write_text(f"{base} y\nONE\ntwo\nthree\nthree\n", encoding="utf-8")
    others, left_out = load_all_prompts(own, "file:b.txt", apart_from=mine)
    assert [(p.id, p.split, p.text) for p in others] == [
        ("p0000", "held_out", "two"),
        ("p0001", "held_out", "three"),
    ]
    assert others[0].messages[0] == {"role": "system", "content": "Be kind."}
    assert left_out == 2
    off = settings(tmp_path, "file:a.jsonl", near_duplicate=1)
    assert [p.text for p in load_all_prompts(off, "file:b.txt", apart_from=mine)[0]] == [
        f"{base} y",
        "two",
        "three",
    ]
    (tmp_path / "b.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(UserError, match="all 1 prompts are too close"):
        load_all_prompts(own, "file:b.txt", apart_from=mine)


def test_a_generator_gives_its_held_out_prompts_to_evaluate_on(tmp_path: Path) -> None:
    (tmp_path / "prompts.py").write_text(GENERATOR, encoding="utf-8")
    found, left_out = load_all_prompts(settings(tmp_path, "", held_out=3), "file:prompts.py", apart_from=[])
    assert ([p.text for p in found], left_out) == ([f"held_out 0 {i} x{i}" for i in range(3)], 0)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("", SettingsError, "and it is not set; for example"),
        ("prompts.jsonl", SettingsError, "not 'prompts.jsonl'"),
        ("hub:", SettingsError, "not 'hub:'"),
        ("hub:squad", SettingsError, "`prompts.source` = 'hub:squad' names no data set"),
        ("file:", SettingsError, "not 'file:'"),
        ("recipe:dotz", UserError, "there is no recipe 'dotz'; did you mean 'dots'?"),
        ("file:missing.py", UserError, "missing.py: no such file"),
    ],
)
def test_sources_that_are_not_there(tmp_path: Path, source: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        load_prompts(settings(tmp_path, source))
    assert words in str(caught.value)


def test_with_tools_the_data_are_part_of_the_question(tmp_path: Path) -> None:
    """What the tools know of a prompt tells two of the same text apart, as a world's data do."""
    (tmp_path / "tools.py").write_text("def look_up(word: str) -> str:\n    return word\n")
    rows = [{"prompt": "Who is it?", "name": f"n{n}"} for n in range(10)]
    plain = settings(tmp_path, write(tmp_path, *rows), near_duplicate=1.0)
    with_tools = plain.model_copy(
        update={"rollout": plain.rollout.model_copy(update={"tools": ["tools.py:look_up"]})}
    )
    prompts, report = load_prompts(with_tools)
    assert (len(prompts), report.dropped) == (10, ())
    assert {split: sum(p.split == split for p in prompts) for split in ("train", "held_out")} == {
        "train": 7,
        "held_out": 2,
    }
    assert unseen(with_tools, prompts[7:], prompts[:7]) == prompts[7:]
    assert unseen(plain, prompts[7:], prompts[:7]) == []
