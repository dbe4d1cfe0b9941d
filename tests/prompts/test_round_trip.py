"""What `refine prompts --out` writes is read back as it was."""

from __future__ import annotations

import dataclasses
import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refine_rl.prompts import load_prompts
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import Prompt

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SAID = st.builds("{} {}".format, st.sampled_from(string.ascii_letters), TEXT).filter(str.strip)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CHAT = st.builds(
    lambda system, before, asked: [
        *([{"role": "system", "content": system}] if system else []),
        *({"role": role, "content": text} for text in before for role in ("user", "assistant")),
        {"role": "user", "content": asked},
    ],
    st.none() | SAID,
    st.lists(SAID, max_size=2),
    SAID,
)
ROW = st.fixed_dictionaries(
    {"messages": CHAT},
    optional={
        "facets": st.dictionaries(TEXT, TEXT | st.integers(), max_size=2),
        "data": st.dictionaries(TEXT, VALUE, max_size=3),
        "split": st.sampled_from(["train", "validation", "held_out"]),
        "answer": VALUE,
        "origin": TEXT,
    },
)


def load(folder: Path, **prompts: Any) -> list[Prompt]:
    return load_prompts(settings_from_dict({"task": "Say hi.", "prompts": prompts}, folder))[0]


def written(prompts: list[Prompt], path: Path) -> str:
    lines = (json.dumps(dataclasses.asdict(prompt)) for prompt in prompts)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return f"file:{path.name}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=4, max_size=9), system=st.sampled_from(["", "Be kind."]))
def test_any_prompts(tmp_path: Path, rows: list[dict[str, Any]], system: str) -> None:
    fixed = [{"messages": [{"role": "user", "content": f"{split}!"}], "split": split, "answer": [None]}
             for split in ("train", "held_out")]  # fmt: skip
    for row in rows:
        if "answer" in row:
            row.get("data", {}).pop("answer", None)
        row.get("data", {}).pop("origin", None)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (*fixed, *rows)), encoding="utf-8"
    )
    prompts = load(tmp_path, source="file:a.jsonl", system=system, near_duplicate=0.999)
    again = load(tmp_path, source=written(prompts, tmp_path / "b.jsonl"), system=system, near_duplicate=0.999)
    assert again == prompts


def test_prompts_of_a_generator_keep_their_order(tmp_path: Path) -> None:
    prompts = load(tmp_path, source="recipe:dots", train=40)
    own = written(prompts, tmp_path / "b.jsonl")
    assert load(tmp_path, source=own) == prompts
    # The settings that made them may stay as they are: columns, numbers that were not reached.
    assert load(tmp_path, source=own, column="text", data={"answer": "label"}, train=999) == prompts
    # One line more of one's own, and it is a file like any other.
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write('{"prompt": "One of my own."}\n')
    assert len(load(tmp_path, source=own)) == len(prompts) + 1


def test_from_the_command_line(refine: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    rows = "".join(f"Say {n} and {n * n}.,{n},{'x' if n % 7 else ''}\n" for n in range(40))
    (tmp_path / "mine" / "a.csv").write_text(f"text,label,note\n{rows}Say 1 and 1.,1,x\n")
    (tmp_path / "mine" / "task.toml").write_text(
        """task = "Count."
        [prompts]
        source = "file:a.csv"
        column = "text"
        data = {answer = "label"}
        system = "You count."
        """
    )
    done = refine("prompts", "mine", "--out", tmp_path / "mine" / "b.jsonl", "--json")
    assert done.code == 0, done.err
    first = json.loads(done.out)
    assert len(first) == 40
    assert {p["data"]["answer"] for p in first} == {str(n) for n in range(40)}
    again = refine("prompts", "mine", "--set", "prompts.source=file:b.jsonl", "--json")
    assert json.loads(again.out) == first
    listed = refine("prompts", "mine", "--dropped")
    assert listed.out == "file:a.csv:42  duplicate, the same as file:a.csv:3: Say 1 and 1.\n"
    assert json.loads(refine("prompts", "mine", "--dropped", "--json").out) == [
        {
            "origin": "file:a.csv:42",
            "kind": "duplicate",
            "why": "the same as file:a.csv:3",
            "text": "Say 1 and 1.",
        }
    ]
    assert refine("prompts", "mine", "--set", "prompts.source=file:b.jsonl", "--dropped").out == (
        "nothing was dropped\n"
    )


@pytest.mark.parametrize("command", [("train", "--run", "r"), ("plan",), ("prompts",)])
def test_a_split_that_duplicates_emptied_says_so(
    refine: Callable[..., Any], tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("Say hi.\n" * 79 + "Say ho ho.\n")
    (tmp_path / "mine" / "task.toml").write_text(
        'task = "Be brief."\n[prompts]\nsource = "file:a.txt"\ntrain = 1\nvalidation = 1\n'
        '[model]\nname = "tiny"\n[reward]\nrules = [{rule = "words", max = 9}]\n'
    )
    done = refine(command[0], "mine", *command[1:])
    assert done.code == 2
    assert "78 of 80 were duplicates" in done.err
    assert "`prompts.train` needs 1 and got 0" in done.err
    assert not (tmp_path / "r").exists()
    few = refine(command[0], "mine", *command[1:], "--set", "prompts.validation=0")
    if command[0] != "prompts":
        assert few.code == 2
        assert (
            "grpo.prompts_per_step = 8, but there is only 1 training prompt (78 of 80 were duplicates)"
            in few.err
        )
    # The list can be had just where the split is refused.
    listed = refine("prompts", tmp_path / "mine", "--dropped")
    assert (listed.code, listed.out.count("\n")) == (2, 78)
    assert listed.out.startswith("file:a.txt:2  duplicate, the same as file:a.txt:1: Say hi.\n")


def test_mistakes_of_prompts_rules_and_functions_are_told_together(
    refine: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": }\n{"txt": "b"}\n')
    (tmp_path / "mine" / "task.toml").write_text(
        'task = "Be brief."\n[prompts]\nsource = "file:a.jsonl"\n[model]\nname = "tiny"\n[reward]\n'
        'rules = [{rule = "wrds", max = 9}, {rule = "words", maxx = 9}]\n'
        'functions = ["rewards.py:polite", "mine"]\n'
    )
    for command in (["train", "mine"], ["plan", "mine"]):
        done = refine(*command)
        assert done.code == 2
        lines = done.err.splitlines()
        places = [f"reward.{kind}, entry {n}" for kind in ("rules", "functions") for n in (1, 2)]
        places += ["a.jsonl:2 is not JSON", "a.jsonl:3 has no prompt"]
        found = [next(n for n, line in enumerate(lines) if place in line) for place in places]
        assert found == sorted(set(found)), done.err
        assert not (tmp_path / "runs" / "mine").exists()


def test_numbers_that_a_rule_needs_are_named_by_line(refine: Callable[..., Any], tmp_path: Path) -> None:
    golds = ["", "10^6", "3/4", "none", *map(str, range(8))]
    rows = "".join(f"Say {n} and {n * n}.,{gold}\n" for n, gold in enumerate(golds))
    (tmp_path / "a.csv").write_text(f"prompt,answer\n{rows}")
    (tmp_path / "task.toml").write_text(
        'task = "Count."\n[prompts]\nsource = "file:a.csv"\n[model]\nname = "tiny"\n[reward]\n'
        'rules = [{rule = "number_equals", data = "answer"}]\n'
    )
    done = refine("train", "task.toml")
    assert done.code == 2
    for line, why in ((2, "is blank: fill it in"), (3, "cannot be told for sure"), (5, "holds no number")):
        assert re.search(rf"data `answer` of prompt p\d+ \(file:a\.csv:{line}\) {why}", done.err), done.err


def test_data_that_a_rule_needs_is_named_by_line(refine: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    cells = "".join(f"Say {n} and {n * n}.,{'' if n == 7 else n}\n" for n in range(20))
    (tmp_path / "mine" / "a.csv").write_text(f"prompt,label\n{cells}")
    (tmp_path / "mine" / "task.toml").write_text(
        'task = "Count."\n[prompts]\nsource = "file:a.csv"\n[model]\nname = "tiny"\n[reward]\n'
        'rules = [{rule = "equals", data = "answer"}, {rule = "keeps", of = "label"}]\n'
    )
    done = refine("train", "mine")
    assert done.code == 2
    assert re.search(
        r'\(file:a\.csv:\d+\) has no data `answer`; it has `label`; `data = {answer = "label"}`',
        done.err,
    )
    assert "... and so for 17 more prompts" in done.err
    assert re.search(r"data `label` of prompt p\d+ \(file:a\.csv:9\) is blank: fill it in", done.err)
    done = refine("train", "mine", "--set", 'prompts.data={answer = "label"}', "--set",
                  'reward.rules=[{rule = "equals", data = "answer"}]')  # fmt: skip
    assert done.code == 2
    assert re.search(r"data `answer` of prompt p\d+ \(file:a\.csv:9\) is blank", done.err)
    assert done.err.count("is blank") == 1
