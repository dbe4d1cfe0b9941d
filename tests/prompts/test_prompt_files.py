"""Prompt files of each kind, and broken ones named by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refine_rl.errors import UserError
from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.files import read_prompt_file


def read(folder: Path, name: str, text: str | bytes) -> list[Candidate]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompt_file(path)


def texts(candidates: list[Candidate]) -> list[tuple[str, str]]:
    return [(c.origin, c.messages[-1]["content"]) for c in candidates]


def broken(folder: Path, name: str, text: str | bytes) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(folder, name, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_jsonl(tmp_path: Path) -> None:
    line_separator = json.dumps({"prompt": "one\u2028line"}, ensure_ascii=False)
    found = read(tmp_path, "a.jsonl", f'\ufeff{{"prompt": "a", "x": [1]}}\r\n\r\n{line_separator}\r\n')
    assert texts(found) == [("file:a.jsonl:1", "a"), ("file:a.jsonl:3", "one\u2028line")]
    assert found[0].data == {"x": [1]}


def test_json_list(tmp_path: Path) -> None:
    found = read(tmp_path, "a.JSON", '[{"prompt": "a"},\n\n {"prompt": "b"}]')
    assert texts(found) == [("file:a.JSON:1", "a"), ("file:a.JSON:2", "b")]


def test_csv(tmp_path: Path) -> None:
    chat = '"[{""role"": ""user"", ""content"": ""c""}]"'
    text = (
        f'prompt,messages,answer,facets\r\n"a,\r\nsecond ""line""",,1,"{{""k"": ""v""}}"\r\n\r\n,{chat},,\r\n'
    )
    found = read(tmp_path, "a.csv", text)
    assert texts(found) == [("file:a.csv:2", 'a,\r\nsecond "line"'), ("file:a.csv:5", "c")]
    assert (found[0].data, found[0].facets) == ({"answer": "1"}, {"k": "v"})
    assert (found[1].data, found[1].facets) == ({"answer": ""}, {})


def test_txt(tmp_path: Path) -> None:
    found = read(tmp_path, "a.txt", "\ufeffa\r\n\r\n  b, c  \r\n")
    assert texts(found) == [("file:a.txt:1", "a"), ("file:a.txt:3", "b, c")]


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": }\n', "a.jsonl:2 is not JSON: Expecting value at column 12"),
        ("a.jsonl", '{"prompt": "a", "x": NaN}', "a.jsonl:1 has a value that JSON cannot hold"),
        ("a.jsonl", '"just text"', 'a.jsonl:1 is not an object with a "prompt"'),
        ("a.json", '[{"prompt": "a"},\n oops]', "a.json:2 is not JSON"),
        ("a.json", '{"data": []}', "a.json:1 is not a list of prompts"),
        ("a.json", '[{"prompt": "a"}, 5]', "a.json:2 is not an object"),
        ("a.csv", "text,answer\na,b\n", "a.csv:1 has no column `prompt` or `messages` in its header"),
        (
            "a.csv",
            "prompt;answer\na;b\n",
            "a.csv:1 has no column `prompt` or `messages` in its header (columns are",
        ),
        ("a.csv", "prompt,x,x\na,b,c\n", "a.csv:1 names a column twice"),
        ("a.csv", "prompt,x\na,b\nc\n", "a.csv:3 has 1 cells, but the header has 2"),
        ("a.csv", 'prompt,x\na,b\n"c,d\n', "a.csv:3 is not CSV: unexpected end of data"),
        ("a.csv", "messages\nhello\n", "a.csv:2 has messages that are not JSON"),
        ("a.txt", " \n\n", "a.txt: there are no prompts in it"),
        ("a.json", "", "a.json: there are no prompts in it"),
        ("a.csv", "", "a.csv: there are no prompts in it"),
        ("a.csv", "prompt\n", "a.csv: there are no prompts in it"),
        (
            "a.parquet",
            "PAR1",
            "a.parquet: not a kind of file that prompts are read from (.jsonl, .json, .csv, .txt, .py)",
        ),
        ("a.txt", b"a\ncaf\xe9\n", "a.txt:2: not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str | bytes, first: str) -> None:
    assert broken(tmp_path, name, text)[0].startswith(first)


def test_all_broken_rows_are_counted_and_ten_shown(tmp_path: Path) -> None:
    rows = ['{"prompt": "fine"}', *['{"prompt": ""}'] * 12]
    found = broken(tmp_path, "a.jsonl", "\n".join(rows))
    assert found == [*(f"a.jsonl:{line} has an empty prompt" for line in range(2, 12)), "... and 2 more"]


def test_ids_given_twice_are_refused(tmp_path: Path) -> None:
    text = '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": 1}\n{"prompt": "c", "id": "x"}\n'
    assert broken(tmp_path, "a.jsonl", text) == ["a.jsonl:3 has the id 'x', which 1 has already"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"b.txt: no such file; `prompts.source` is relative to the task's folder"
    ):
        read_prompt_file(tmp_path / "b.txt")
