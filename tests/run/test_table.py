"""A table alone: whole lines, or none; and what is damaged is named."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_rl.errors import DiskError, UserError
from refine_rl.run.files import Record
from refine_rl.run.shapes import Shape, plain
from refine_rl.run.table import InOrder, Table, first_of_each_step


def steps(path: Path, **more: object) -> Table[Record]:
    return Table(path / "steps.jsonl", plain({"step": int}), **more)  # type: ignore[arg-type]


def line(step: int, **more: object) -> Record:
    return {"step": step, **more}


def test_records_come_back_in_the_form_of_the_shape(tmp_path: Path) -> None:
    shape: Shape[int] = Shape(
        keys={"n": int},
        flaws=lambda record: "`n` is odd" if record["n"] % 2 else None,
        to_line=lambda half: {"n": 2 * half},
        from_line=lambda record: int(record["n"]) // 2,
    )
    table = Table(tmp_path / "numbers.jsonl", shape)
    assert (table.exists(), list(table.read()), table()) == (False, [], [])
    table.append()
    assert not table.exists()
    table.append(1, 2)
    table.append(3)
    assert table.path.read_text() == '{"n": 2}\n{"n": 4}\n{"n": 6}\n' == table.text([1, 2, 3])
    assert list(table.read()) == [1, 2, 3]
    assert table() == [{"n": 2}, {"n": 4}, {"n": 6}]
    table.replace([7])
    assert list(table.read()) == [7]
    table.path.write_text('{"n": 2}\n{"n": 3}\n')
    with pytest.raises(UserError, match=r"numbers\.jsonl:2: this line is damaged: `n` is odd\. Put it back"):
        list(table.read())
    table.remove()
    table.remove()
    assert not table.exists()


def test_many_records_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        written.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    steps(tmp_path).append(line(1), line(1), line(1))
    assert written == [b'{"step": 1}\n' * 3]


@pytest.mark.parametrize("fits", [0, 5])
def test_a_full_disk_leaves_no_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    table, write, calls = steps(tmp_path), os.write, 0
    table.append(line(1))

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1 and fits:
            return write(descriptor, data[:fits])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskError, match=r"steps\.jsonl cannot be written"):
            table.append(line(2))
    table.append(line(2))
    assert [r["step"] for r in table()] == [1, 2]


def test_what_cannot_be_written_whole_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = steps(tmp_path)
    table.append(line(1))

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    for write in (lambda: table.replace([line(9)]), lambda: table.rewind(0)):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert table() == [line(1)]
    with pytest.raises(ValueError, match="not JSON compliant"):
        table.append(line(2), line(3, loss=float("nan")))
    assert table() == [line(1)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=4), st.text(min_size=1), st.data())
def test_a_torn_last_line_is_no_line_and_goes(texts: list[str], last: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = steps(Path(folder))
        table.append(line(0), *(line(n, text=text) for n, text in enumerate(texts, 1)))
        whole = table.path.read_bytes()
        torn = json.dumps(line(9, text=last)).encode()
        with table.path.open("ab") as file:
            file.write(torn[: data.draw(st.integers(1, len(torn)))])
        assert [r["step"] for r in table()] == [*range(len(texts) + 1)]
        table.repair()
        assert table.path.read_bytes() == whole
        table.repair()
        assert table.path.read_bytes() == whole


@pytest.mark.parametrize("kilobytes", [1, 64, 65, 200])
def test_a_torn_line_of_any_length_goes(tmp_path: Path, kilobytes: int) -> None:
    table = steps(tmp_path)
    table.repair()  # there is no file
    table.append(line(1, text="x" * 70_000))
    whole = table.path.read_bytes()
    with table.path.open("ab") as file:
        file.write(b"y" * 1024 * kilobytes)
    table.repair()
    assert table.path.read_bytes() == whole
    table.path.write_bytes(b"y" * 1024 * kilobytes)
    table.repair()
    assert table.path.read_bytes() == b""


def test_a_file_that_does_not_grow_has_no_torn_line(tmp_path: Path) -> None:
    table = steps(tmp_path, grows=False)
    table.path.write_text('{"step": 1}\n{"st')
    with pytest.raises(UserError, match=":2: this line is damaged: the file ends in the middle of it"):
        table()
    table.repair()
    assert table.path.read_text() == '{"step": 1}\n{"st'


DAMAGED = {
    b"[]\n": "it is no JSON object",
    b"half\n": "it is no JSON: Expecting value at column 1",
    b'{"step": "\xff"}\n': "it is no UTF-8 text",
    b"[" * 100_000 + b"\n": "it is nested too deeply",
    b'{"stop": 2}\n': "`step` is missing",
    b'{"step": true}\n': "`step` is true",
}


@pytest.mark.parametrize("damage", DAMAGED, ids=DAMAGED.get)
def test_a_damaged_line_is_named_with_the_way_out(tmp_path: Path, damage: bytes) -> None:
    table = steps(tmp_path, way_out=lambda line: f"Look at line {line}.")
    table.path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    lines = table.lines()
    assert next(lines) == line(1)
    with pytest.raises(UserError) as error:
        next(lines)
    said = f"{table.path}:2: this line is damaged: {DAMAGED[damage]}. Look at line 2."
    assert str(error.value) == said
    assert str(table.error(" is gone.")) == f"{table.path} is gone. Look at line None."
    assert [table.step_before(n) for n in (1, 2, 3, 4)] == [0, 1, 1, 3]
    with pytest.raises(UserError) as error:  # a line that is kept follows it
        table.rewind(3)
    assert str(error.value) == said
    table.rewind(2)
    assert table() == [line(1)]


def test_lines_of_prompts_that_are_not_there(tmp_path: Path) -> None:
    table = steps(tmp_path)
    table.append(line(1, prompt_id="a"), line(2, prompt_id="b"))
    assert [r["step"] for r in table.lines({"a", "b"})] == [1, 2]
    with pytest.raises(UserError, match=":2: this line is damaged: there is no prompt 'b'"):
        list(table.lines({"a"}))


@pytest.mark.parametrize(
    ("lines", "flaw"),
    [
        ([1, 2, 3], ""),
        ([1, 3], ":2: this line is damaged: step 3 follows step 1"),
        ([2], ":1: this line is damaged: step 2 follows the start"),
        ([1, 1], ":2: this line is damaged: step 1 follows step 1"),
        ([(1, 2), (1, 2), (2, 3)], ""),  # the last step is being written
        ([(1, 2), (2, 2)], ":2: this line is damaged: 1 more groups of step 1 should stand before it"),
        ([(1, 1), (1, 1)], ":2: this line is damaged: step 1 follows step 1"),
    ],
)
def test_no_step_and_no_group_is_lost_in_silence(tmp_path: Path, lines: list[object], flaw: str) -> None:
    table = steps(tmp_path, sequence=InOrder)
    table.append(
        *(line(n) if isinstance(n, int) else line(n[0], groups_in_step=n[1]) for n in lines)  # type: ignore[index]
    )
    if not flaw:
        assert len(table()) == len(table()) == len(lines)  # each reading counts anew
        return
    with pytest.raises(UserError, match=flaw):
        table()


def test_going_back_forgets_later_steps(tmp_path: Path) -> None:
    table = steps(tmp_path)
    table.rewind(0)
    assert not table.exists()
    table.append(*(line(n, part=part) for n in (1, 2, 2, 3, 5) for part in "ab"))
    before = table.path.read_bytes()
    table.rewind(5)
    assert table.path.read_bytes() == before
    table.rewind(2)
    assert [r["step"] for r in table()] == [1, 1, 2, 2, 2, 2]
    table.keep(first_of_each_step())
    assert table() == [line(1, part="a"), line(2, part="a")]
    table.rewind(0)
    assert (table.exists(), table()) == (True, [])


def test_the_file_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward function may change the current folder."""
    monkeypatch.chdir(tmp_path)
    table = Table(Path("steps.jsonl"), plain({"step": int}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    table.append(line(1))
    assert (tmp_path / "steps.jsonl").read_text() == '{"step": 1}\n'
    assert str(table.error("")) == "steps.jsonl Put it back as it was."
