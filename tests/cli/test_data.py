"""refine data: pairs from code, and what a file holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.prompts import load_prompts
from refine_rl.settings.file import settings_from_dict

Refine = Callable[..., Any]


@pytest.fixture
def pairs(refine: Refine, tmp_path: Path) -> Path:
    """The pairs of two packages of the standard library."""
    done = refine("data", "docstrings", "json", "logging", "--out", "pairs.jsonl")
    assert done.code == 0, done.err
    return tmp_path / "pairs.jsonl"


def test_pairs_of_the_standard_library(refine: Refine, tmp_path: Path) -> None:
    done = refine("data", "docstrings", "json", "logging", "--out", "pairs.jsonl", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert told["pairs"] == len(rows) == sum(told["splits"].values()) > 100
    assert told["documented"] == told["pairs"] + sum(told["dropped"].values())
    assert list(rows[0]) == [
        *(
            "prompt",
            "answer",
            "code",
            "docstring",
            "name",
            "module",
            "package",
            "path",
            "line",
            "licence",
            "split",
        )
    ]
    assert {row["package"] for row in rows} == {"json", "logging"}
    (dumps,) = (row for row in rows if row["name"] == "dumps")
    assert dumps["answer"] == "Serialize ``obj`` to a JSON formatted ``str``."
    assert dumps["code"].startswith("def dumps(obj, *, skipkeys=False,")
    assert '"""' not in dumps["code"]
    assert dumps["prompt"].endswith(dumps["code"])


def test_the_screen_counts_what_was_dropped(refine: Refine) -> None:
    done = refine("data", "docstrings", "logging", "--out", "pairs.jsonl")
    numbers = {
        label.strip(): int(count.replace(",", ""))
        for label, count in re.findall(r"^(.*\S) +(-?[\d,]+)$", done.out, re.MULTILINE)
    }
    dropped = -sum(count for count in numbers.values() if count < 0)
    assert numbers["functions read"] > numbers["with a docstring"] == numbers["pairs"] + dropped
    assert numbers["pairs"] == numbers["train"] + numbers["validation"] + numbers["held-out"]
    assert dropped > 0
    assert "have no body: `...`, `pass`, NotImplementedError, overloads" in done.out
    assert "written to pairs.jsonl" in done.out
    assert "refine data describe pairs.jsonl" in done.out


def test_the_file_is_one_of_prompts_as_well(pairs: Path) -> None:
    settings = {"task": "Say what it does.", "prompts": {"source": "file:pairs.jsonl"}}
    prompts, _ = load_prompts(settings_from_dict(settings, pairs.parent))
    rows = {row["prompt"]: row for row in map(json.loads, pairs.read_text().splitlines())}
    assert len(prompts) >= 0.9 * len(rows)
    for prompt in prompts:
        row = rows[prompt.text]
        assert prompt.split == row["split"]
        assert prompt.data["answer"] == row["answer"]
    modules = {
        split: {p.data["module"] for p in prompts if p.split == split} for split in ("train", "held_out")
    }
    assert not modules["train"] & modules["held_out"]


def test_an_existing_file_stays(refine: Refine, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("mine")
    again = refine("data", "docstrings", "json", "--out", "pairs.jsonl")
    assert (again.code, again.out) == (2, "")
    assert "pairs.jsonl exists already; name a new file, or replace it with --force" in again.err
    assert (tmp_path / "pairs.jsonl").read_text() == "mine"
    assert refine("data", "docstrings", "json", "--out", "pairs.jsonl", "--force").code == 0
    assert (tmp_path / "pairs.jsonl").read_text().startswith('{"prompt": ')


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["docstrings", "jsno", "--out", "a.jsonl"],
            "jsno: there is no such file or folder, and no such package",
        ),
        (["docstrings", "json", "--out", "no/a.jsonl"], "no/a.jsonl: there is no folder no; make it first"),
        (
            ["docstrings", "json", "--out", "a.jsonl", "--prompt", "{{docs}}"],
            "there are {{code}} and {{name}}",
        ),
        (["docstrings", "json", "--out", "a.jsonl", "--max-chars", "5"], "The most characters are fewer"),
        (
            ["docstrings", "json", "--out", "a.jsonl", "--min-words", "900"],
            "no pair is left of 14 documented",
        ),
        (["docstrings", "--out", "a.jsonl"], "Missing argument 'PATH_OR_PACKAGE...'"),
        (["describe", "no.jsonl"], "no.jsonl: no such file; check the path"),
        (["describe", "empty.jsonl"], "empty.jsonl: there are no rows in it"),
        (["describe", "hub:nobody"], "`FILE` = 'hub:nobody' names no data set"),
        (
            ["describe", "a.xlsx"],
            "a.xlsx: not a kind of file that rows are read from (.jsonl, .json, .csv, .txt,",
        ),
        (["describe", "one.jsonl", "--model", "/no/model"], "/no/model"),
        (["describe", "one.jsonl", "--prompt", "text"], "one.jsonl: it has no column `text` (--prompt)"),
    ],
)
def test_a_mistake_is_named(refine: Refine, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n')
    done = refine("data", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.split())
    assert not (tmp_path / "a.jsonl").exists()


def test_a_file_is_described(refine: Refine, pairs: Path) -> None:
    told = json.loads(refine("data", "describe", "pairs.jsonl", "--max-tokens", "100", "--json").out)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert (told["rows"], told["prompt"], told["answer"]) == (len(rows), "prompt", "answer")
    assert told["splits"] == {s: sum(r["split"] == s for r in rows) for s in told["splits"]}
    (prompt, *_) = told["columns"]
    lengths = sorted(len(row["prompt"]) for row in rows)
    assert prompt["characters"]["quantiles"][0::4] == [lengths[0], lengths[-1]]
    assert 0 < told["over"]["100"][0] <= told["over"]["100"][1] < 1
    shown = refine("data", "describe", "pairs.jsonl", "--limit", "20")
    assert shown.code == 0
    assert shown.out.splitlines()[0] == "20 rows of pairs.jsonl"
    for heading in ("column", "characters", "tokens of tiny", "a limit of"):
        assert re.search(rf"^{heading} ", shown.out, re.MULTILINE)
    assert "answer: column `answer`" in shown.out


def test_every_kind_of_file_is_described_alike(refine: Refine, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": f"say {n} times hi", "answer": "hi " * n} for n in range(1, 9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text(
        "prompt,answer\n" + "".join(f"{r['prompt']},{r['answer']}\n" for r in rows)
    )
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = []
    for kind in ("jsonl", "json", "csv", "parquet"):
        told = json.loads(refine("data", "describe", f"a.{kind}", "--json").out)
        assert told.pop("source") == f"a.{kind}"
        found.append(told)
    assert found[0]["rows"] == 8
    assert found == [found[0]] * 4


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_tables_fit_the_terminal(
    refine: Refine, pairs: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["describe", "pairs.jsonl"], ["docstrings", "json", "--out", "b.jsonl", "--force"]):
        done = refine("data", *arguments)
        lines = re.sub(r"\r|\x1b\[[?0-9;]*[A-Za-z]", "", done.out).splitlines()
        assert max(map(len, lines)) <= columns, max(lines, key=len)
