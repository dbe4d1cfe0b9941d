"""Rows of parquet files and of data sets: folders read by the very calls that read the hub's."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.policy import hub
from refine_rl.policy.hub import hub_answers
from refine_rl.prompts import load_prompts
from refine_rl.prompts.json_rows import RowError
from refine_rl.prompts.rows import read_rows
from refine_rl.prompts.table_rows import plain
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict

pa = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> None:
    from pyarrow import parquet as pq

    pq.write_table(pa.table(columns), path, **options)


def rows(source: str, folder: Path, **options: Any) -> list[tuple[str, object]]:
    return list(read_rows(source, folder, key="sft.data", **options).rows)


def settings(folder: Path, source: str, **prompts: Any) -> Settings:
    return settings_from_dict({"task": "Say hi.", "prompts": {"source": source, **prompts}}, folder)


def test_a_parquet_file_gives_the_rows_of_the_same_jsonl(tmp_path: Path) -> None:
    given = [{"prompt": f"say {n}", "tags": [n, None], "of": {"n": n / 2}} for n in range(700)]
    parquet(tmp_path / "a.parquet", {name: [row[name] for row in given] for name in given[0]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    found = rows("file:a.parquet", tmp_path)
    assert found == rows("file:a.jsonl", tmp_path)
    assert found[699] == ("700", {"prompt": "say 699", "tags": [699, None], "of": {"n": 349.5}})


def test_what_a_parquet_file_holds_becomes_plain(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "Hi", "name": None},
        {"role": "assistant", "content": "Ho", "name": "A"},
    ]
    day = datetime.datetime(2026, 1, 31, 12, 30)
    columns = {
        "messages": [chat],
        "at": [day],
        "price": [Decimal("1.50")],
        "empty": [float("nan")],
        "raw": pa.array([b"caf\xc3\xa9"], pa.binary()),
        "small": pa.array([3], pa.int8()),
    }
    parquet(tmp_path / "a.parquet", columns)
    ((name, row),) = rows("file:a.parquet", tmp_path)
    assert name == "1"
    assert row == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "name": "A"}],
        "at": "2026-01-31T12:30:00",
        "price": "1.50",
        "empty": None,
        "raw": "café",
        "small": 3,
    }
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_numpy_is_made_python() -> None:
    found = plain({"a": np.int64(3), "b": np.float32(0.5), "c": np.array([[1, 2]]), "d": np.bool_(True)})
    assert (found, [type(v) for v in found.values()]) == (
        {"a": 3, "b": 0.5, "c": [[1, 2]], "d": True},
        [int, float, list, bool],
    )
    assert type(plain(np.float64(2.0))) is float
    for value in (float("inf"), b"\xff\xfe", object(), {1j}):
        with pytest.raises(RowError):
            plain(value)


def test_a_row_that_cannot_be_plain_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"prompt": ["a", "b"], "picture": [b"fine", b"\xff\xd8"]})
    with pytest.raises(UserError) as caught:
        load_prompts(settings(tmp_path, "file:a.parquet"))
    assert str(caught.value) == (
        f"{tmp_path}/a.parquet:2 has a column `picture` that holds 2 bytes that are not UTF-8 text; leave "
        "that column out of the table"
    )


def test_a_column_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"question": ["a"] * 20})
    with pytest.raises(UserError) as caught:
        load_prompts(settings(tmp_path, "file:a.parquet"))
    assert str(caught.value) == (
        f"{tmp_path}/a.parquet:1 has no column `prompt` or `messages`; there is `question`: "
        '`column = "question"` in [prompts] takes `question`'
    )


@pytest.mark.parametrize("content", [b"PAR1", b"", b"PAR1 nothing but noise PAR1"])
def test_a_broken_parquet_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: not a parquet file that can be read: "):
        rows("file:a.parquet", tmp_path)
    with pytest.raises(UserError, match=r"b\.parquet: no such file; `sft.data` is relative to the task's"):
        rows("file:b.parquet", tmp_path)
    (tmp_path / "task").mkdir()
    for way in ("../b.parquet", "../task/../b.parquet"):
        with pytest.raises(UserError) as caught:
            rows(f"file:{way}", tmp_path / "task")
        assert str(caught.value).startswith(f"{tmp_path}/b.parquet: no such file")


def test_without_the_library_the_command_that_brings_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'refine-rl\[hub\]'"):
        rows("file:a.parquet", tmp_path)
    with pytest.raises(UserError, match=r"pip install 'refine-rl\[hub\]'"):
        rows("hub:nobody/nothing", tmp_path)


def test_the_first_rows_are_had_without_reading_the_others(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"prompt": [f"p{n}" for n in range(2000)]}, row_group_size=500)
    whole = (tmp_path / "a.parquet").read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 1000] = b"\xff" * 1000  # in the third or fourth row group
    (tmp_path / "a.parquet").write_bytes(bytes(broken))
    found = rows("file:a.parquet[:300]", tmp_path)
    assert found[-1] == ("300", {"prompt": "p299"})
    assert len(found) == 300
    (tmp_path / "b.txt").write_text("one\ntwo\nthree\n")
    assert [name for name, _ in rows("file:b.txt[:2]", tmp_path)] == ["1", "2"]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder laid out as a data set of the hub, with two splits."""
    folder = tmp_path / "tldr" / "data"
    folder.mkdir(parents=True)
    parquet(folder / "train-00000-of-00001.parquet", _tldr(0, 30))
    parquet(folder / "test-00000-of-00001.parquet", _tldr(100, 3))
    return tmp_path


def _tldr(first: int, count: int) -> dict[str, list[str]]:
    numbers = range(first, first + count)
    return {
        "prompt": [f"post {n} is a{n} b{n}" for n in numbers],
        "completion": [f"sum {n}" for n in numbers],
    }


def test_a_data_set_gives_its_rows_in_order(local: Path) -> None:
    train = rows("hub:./tldr", local)
    assert [name for name, _ in train] == [str(n) for n in range(1, 31)]
    assert train[2] == ("3", {"prompt": "post 2 is a2 b2", "completion": "sum 2"})
    assert len(rows("hub:./tldr@test", local)) == 3
    assert rows("hub:./tldr@train[:5]", local) == train[:5]
    assert rows(f"hub:{local}/tldr[:1]", Path("/")) == train[:1]


def test_a_folder_of_save_to_disk(local: Path) -> None:
    one = datasets.Dataset.from_dict(_tldr(0, 4))
    one.save_to_disk(str(local / "one"))
    datasets.DatasetDict(validation=one).save_to_disk(str(local / "several"))
    expected = rows("hub:./tldr[:4]", local)
    assert rows("hub:./one", local) == expected
    assert rows("hub:./several", local) == expected  # the only split there is
    assert rows("hub:./several@validation[:2]", local) == expected[:2]


def test_prompts_of_a_data_set(local: Path) -> None:
    source = "hub:./tldr@train[:20]"
    prompts, report = load_prompts(settings(local, source, data={"reference": "completion"}))
    assert (len(prompts), report.summary()[0]) == (20, f"20 prompts read from {source}")
    first = prompts[0]
    number = int(first.text.split()[1])
    assert first.data == {"reference": f"sum {number}"}
    assert first.origin == f"hub:./tldr@train:{number + 1}"


def test_pictures_are_left_out_and_chats_are_whole(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    chat = [{"role": "user", "content": "What is it?"}]
    row = {"messages": [chat], "picture": [{"bytes": b"\xff\xd8", "path": None}], "kind": [1]}
    datasets.Dataset.from_dict(row, features=features).save_to_disk(str(tmp_path / "seen"))
    assert rows("hub:./seen", tmp_path) == [("1", {"messages": chat, "kind": 1})]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hub:./tldr@dev", "hub:./tldr@dev: it has no split `dev`; there are `train`, `test`. Name one with"),
        ("hub:./none", "none: there is no such folder"),
        ("hub:./empty", "hub:./empty: it cannot be read ("),
    ],
)
def test_a_data_set_that_is_not_there(local: Path, source: str, said: str) -> None:
    (local / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        rows(source, local)
    assert said in str(caught.value)


def test_a_data_set_with_several_configurations(local: Path) -> None:
    parts = [
        f"- config_name: {name}\n  data_files: data/{files}*\n"
        for name, files in (("a", "train"), ("b", "test"))
    ]
    card = f"---\nconfigs:\n{''.join(parts)}---\n"
    (local / "tldr" / "README.md").write_text(card)
    assert len(rows("hub:./tldr:b", local)) == 3
    with pytest.raises(
        UserError, match=r"it has several configurations, \['a', 'b'\]; name one behind a colon"
    ):
        rows("hub:./tldr", local)
    with pytest.raises(UserError, match=r"it has no configuration 'c'; there are \['a', 'b'\]"):
        rows("hub:./tldr:c", local)


@pytest.mark.parametrize(
    "source", ["hub:squad", "hub:a/b/c", "hub:a/b@", "hub:a/b@train[5:9]", "hub:a/b[:0]"]
)
def test_a_name_that_is_none(tmp_path: Path, source: str) -> None:
    with pytest.raises(SettingsError, match=r"`sft.data` = 'hub:.*' names no data set"):
        read_rows(source, tmp_path, key="sft.data")
    with pytest.raises(SettingsError, match=r'`sft.data` must be "file:PATH" or "hub:OWNER/NAME", not'):
        read_rows("pairs.jsonl", tmp_path, key="sft.data")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The library would ask the hub, and nobody answers; what is asked besides is refused."""
    asked: list[str] = []

    def nobody(address: str) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_ask", nobody)
    hub_answers.cache_clear()
    yield asked
    hub_answers.cache_clear()


@pytest.mark.parametrize("source", ["hub:nobody/no-such-set", "hub:nobody/no-such-set@train[:5]"])
def test_without_a_network_it_is_said_at_once(no_network: list[str], tmp_path: Path, source: str) -> None:
    with pytest.raises(
        MachineError, match=r"the hub \(https://.*\) cannot be reached, and the data set is not"
    ):
        rows(source, tmp_path)
    assert len(no_network) == 1
    assert not datasets.config.HF_HUB_OFFLINE  # as it was


def test_who_chose_to_stay_offline_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="not in the cache of this machine, and HF_HUB_OFFLINE=1 is set"):
        rows("hub:nobody/no-such-set", tmp_path)


def test_a_folder_that_hides_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trl-lib" / "tldr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"the folder itself is hub:\./trl-lib/tldr"):
        rows("hub:trl-lib/tldr", tmp_path)


# -- rows that a Python file makes ------------------------------------------------------------


def test_pairs_of_a_python_file(tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text(
        "def pairs(count, seed):\n"
        "    return [{'prompt': f'{n} + {seed}', 'answer': str(n + seed)} for n in range(count + 1)]\n"
    )
    read = read_rows("file:pairs.py[:2]", tmp_path, key="sft.data", seed=5)
    assert (read.name, read.origin) == (str(tmp_path / "pairs.py"), "file:pairs.py")
    assert list(read.rows) == [
        ("pairs[0]", {"prompt": "0 + 5", "answer": "5"}),
        ("pairs[1]", {"prompt": "1 + 5", "answer": "6"}),
    ]
    whole = read_rows("file:pairs.py", tmp_path, key="sft.data", seed=0)
    assert len(list(whole.rows)) == 10_001  # as many as it gives


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def pairs(count, seed):\n    return iter(())",
            r"pairs\(3, \.\.\.\) must return a list, not tuple_iter",
        ),
        ("def pairs(count, seed):\n    return 1 / seed", r"pairs\.py:2: ZeroDivisionError"),
        ("def prompts(count, seed):\n    return []", r"pairs\.py: has no function pairs\(count, seed\)"),
        ("import sys; sys.exit(1)", r"called sys\.exit\(1\)"),
    ],
)
def test_a_python_file_that_makes_no_pairs(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "pairs.py").write_text(code)
    with pytest.raises(UserError, match=said):
        read_rows("file:pairs.py[:3]", tmp_path, key="sft.data", seed=0)
    with pytest.raises(UserError, match=r"other\.py: no such file; `sft\.data` is relative"):
        read_rows("file:other.py", tmp_path, key="sft.data", seed=0)
