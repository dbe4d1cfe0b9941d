"""Prompt files of each kind, and broken ones named by line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import UserError
from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.columns import Columns
from refine_rl.prompts.files import read_prompts


def read(folder: Path, name: str, text: str | bytes) -> list[Candidate]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompts(f"file:{name}", folder)


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
        (
            "a.csv",
            "label,text\na,b\n",
            "a.csv:1 has no column `prompt` or `messages`; there are `label`, `text`: "
            '`column = "text"` in [prompts] takes `text`',
        ),
        (
            "a.csv",
            "prompt;answer\na;b\n",
            "a.csv:1 has the one column `prompt;answer`: columns are separated by commas",
        ),
        ("a.csv", "prompt,x,x\na,b,c\n", "a.csv:1 names a column twice"),
        ("a.csv", "prompt,x\na,b\nc\n", "a.csv:3 has 1 cells, but the header has 2"),
        ("a.csv", 'prompt,x\na,b\n"c,d\n', "a.csv:3 is not CSV: unexpected end of data"),
        ("a.csv", "messages\nhello\n", "a.csv:2 has messages that cannot be read as JSON: it is not JSON: "),
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"prompt": "b", "x": {"y": 1, "y": 2}}',
            "a.jsonl:2 names 'y' twice in one object",
        ),
        ("a.jsonl", '{"prompt": "a", "prompt": "b"}', "a.jsonl:1 names 'prompt' twice in one object"),
        (
            "a.jsonl",
            '{"prompt": "a"}\n\n{"prompt": "b", "n": ' + "9" * 5000 + "}",
            "a.jsonl:3 has a whole number of 5,000 digits, which is too long to be read",
        ),
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"prompt": "b", "n": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "a.jsonl:2 is nested too deeply",
        ),
        (
            "a.json",
            '[{"prompt": "a"},\n\n{"prompt": "b", "x": 1,\n"x": 2}, {"prompt": "c"}]',
            "a.json:2 names 'x' twice in one object (line 3)",
        ),
        (
            "a.json",
            '[{"prompt": "a"},\n{"prompt": "b", "n": ' + "8" * 4301 + "}]",
            "a.json:2 has a whole number of 4,301 digits, which is too long to be read (line 2)",
        ),
        (
            "a.json",
            '[{"prompt": "a"},\n{"prompt": "b", "n": ' + "[" * 100_000 + "]" * 100_000 + "}]",
            "a.json:2 is nested too deeply: too many brackets inside each other (line 2)",
        ),
        ("a.json", '[{"prompt": "a"} {"prompt": "b"}]', "a.json:1 is not JSON: the list ends in a wrong"),
        ("a.csv", 'prompt,facets\na,"{""k"": 1, ""k"": 2}"\n', "a.csv:2 has facets that cannot be read as"),
        ("a.txt", " \n\n", "a.txt: there are no prompts in it"),
        ("a.json", "", "a.json: there are no prompts in it"),
        ("a.csv", "", "a.csv: there are no prompts in it"),
        ("a.csv", "prompt\n", "a.csv: there are no prompts in it"),
        (
            "a.tsv",
            "a",
            "a.tsv: not a kind of file that rows are read from (.jsonl, .json, .csv, .txt, .parquet, .py)",
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
        read_prompts("file:b.txt", tmp_path)


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    """The csv module's own limit is 131,072 signs, and it is one of the whole process."""
    before = csv.field_size_limit()
    (found,) = read(tmp_path, "a.csv", "prompt,source\nsum it up," + "word " * 60_000 + "\n")
    assert len(found.data["source"]) == 300_000
    assert csv.field_size_limit() == before


def named(folder: Path, name: str, text: str, **columns: Any) -> list[tuple[str, dict[str, Any]]]:
    (folder / name).write_text(text, encoding="utf-8")
    found = read_prompts(f"file:{name}", folder, Columns(**columns))
    return [(c.messages[-1]["content"], dict(c.data)) for c in found]


def test_columns_of_other_names(tmp_path: Path) -> None:
    rows = '{"text": "2 + 2", "label": 4, "level": "easy"}\n'
    assert named(tmp_path, "a.jsonl", rows, prompt="text") == [("2 + 2", {"label": 4, "level": "easy"})]
    assert named(tmp_path, "a.jsonl", rows, prompt="text", data={"answer": "label"}) == [
        ("2 + 2", {"answer": 4, "level": "easy"})
    ]
    # One column may be both: what is asked, and what the answer is held against.
    assert named(tmp_path, "a.csv", "text,label\nhi,4\n", prompt="text", data={"source": "text"}) == [
        ("hi", {"source": "hi", "label": "4"})
    ]
    chat = '{"chat": [{"role": "user", "content": "Hi"}], "prompt": "other", "data": {"x": 1}}\n'
    assert named(tmp_path, "a.jsonl", chat, prompt="chat") == [("Hi", {"prompt": "other", "x": 1})]
    assert named(tmp_path, "a.jsonl", '{"prompt": "a", "gold": 1}', data={"answer": "gold"}) == [
        ("a", {"answer": 1})
    ]


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        (
            '{"txt": 1, "label": 2}',
            {"prompt": "text"},
            "has no column `text` (prompts.column); there are `txt`, "
            '`label`: `column = "txt"` in [prompts] takes `txt`',
        ),
        (
            '{"question": "a"}',
            {},
            "has no prompt and no messages; there is `question`: `column = "
            '"question"` in [prompts] takes `question`',
        ),
        (
            '{"a b": "x", "zzz": 1}',
            {},
            "has no prompt and no messages; there are `a b`, `zzz`: "
            '`column = "NAME"` in [prompts] takes one of them',
        ),
        (
            '{"prompt": "a", "label": 2}',
            {"data": {"answer": "lable"}},
            "has no column `lable` (prompts.data.answer); did you mean `label`?",
        ),
        (
            '{"prompt": "a", "answer": 1, "label": 2}',
            {"data": {"answer": "label"}},
            "has a column `answer` already, which prompts.data would hide: choose another name",
        ),
    ],
)
def test_a_column_that_is_not_there(tmp_path: Path, text: str, columns: dict[str, Any], said: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"{text}\n" * 3)
    with pytest.raises(UserError) as caught:
        read_prompts("file:a.jsonl", tmp_path, Columns(**columns))
    assert str(caught.value) == f"{tmp_path}/a.jsonl:1 {said} (so it is with all 3 rows)"


@pytest.mark.parametrize(
    ("odd", "columns", "said"),
    [
        (
            {"promt": "b"},
            {},
            "has no prompt and no messages; there is `promt`: call `promt` `prompt`, as other rows do",
        ),
        ({"zzz": "b"}, {}, "has no prompt and no messages; there is `zzz`"),
        (
            {"txt": "b"},
            {"prompt": "text"},
            "has no column `text`; there is `txt`: call `txt` `text`, as other rows do",
        ),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_slip_in_one_row_is_mended_in_that_row(
    tmp_path: Path, odd: dict[str, str], columns: dict[str, str], said: str, place: int
) -> None:
    """To name another column for all of them, as for a file without any `prompt`, would lose the others."""
    rows = [{columns.get("prompt", "prompt"): text} for text in "ac"]
    rows.insert(place, odd)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        read_prompts("file:a.jsonl", tmp_path, Columns(**columns))
    assert str(caught.value) == f"{tmp_path}/a.jsonl:{place + 1} {said}"


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    for name in ("b.md", "z.csv", "y.jsonl"):
        (tmp_path / "rows" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "rows" / name).touch()
    with pytest.raises(
        UserError,
        match=r"rows: a folder, where a file of rows is needed \(\.jsonl, .*; in it are y\.jsonl, z\.csv$",
    ):
        read_prompts("file:rows", tmp_path)
    with pytest.raises(UserError, match=r"nothing: no such file; `prompts.source` is relative"):
        read_prompts("file:nothing", tmp_path)
