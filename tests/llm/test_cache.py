"""The folder of replies."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refine_rl.llm.cache import Cache, cache_key, default_folder
from refine_rl.llm.client import Reply, Request, Schema

REQUEST = Request(messages=({"role": "user", "content": "Hi."},), purpose="judge", about="p1")
KEY = cache_key("http://x/v1", "m", REQUEST)
REPLY = Reply(text="Hello.", tokens_in=1, tokens_out=2, cost_usd=0.5, seconds=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": ({"role": "user", "content": "Hi!"},)},
        {"messages": ({"role": "system", "content": "Hi."},)},
        {"temperature": 0.5},
        {"max_tokens": 9},
        {"variation": "2"},
        {"form": "json"},
        {"schema": Schema(name="a", schema={"type": "object"})},
    ],
)
def test_what_matters_is_in_the_key(change: dict[str, Any]) -> None:
    assert cache_key("http://x/v1", "m", replace(REQUEST, **change)) != KEY


def test_whom_it_goes_to_is_in_the_key_and_what_it_is_for_is_not() -> None:
    assert cache_key("http://y/v1", "m", REQUEST) != KEY
    assert cache_key("http://x/v1", "n", REQUEST) != KEY
    assert cache_key("http://x/v1", "m", replace(REQUEST, purpose="anchor", about="p2")) == KEY
    one = replace(REQUEST, schema=Schema(name="a", schema={"type": "object"}))
    two = replace(REQUEST, schema=Schema(name="a", schema={"type": "array"}))
    assert cache_key("http://x/v1", "m", one) != cache_key("http://x/v1", "m", two)


def test_a_reply_comes_back_free(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.get(KEY) is None
    cache.put(KEY, REPLY)
    assert cache.get(KEY) == Reply(text="Hello.", tokens_in=0, tokens_out=0, cost_usd=0.0, cached=True)
    assert cache.forget(KEY)
    assert cache.get(KEY) is None
    assert not cache.forget(KEY)


@pytest.mark.parametrize(
    "reply", [replace(REPLY, finish="length"), replace(REPLY, finish="refusal"), Reply(text="")]
)
def test_what_is_not_kept(tmp_path: Path, reply: Reply) -> None:
    Cache(tmp_path).put(KEY, reply)
    assert list(tmp_path.iterdir()) == []


def test_files_are_for_their_owner_alone_and_no_other_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    Cache(folder).put(KEY, REPLY)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.name for path in files] == [f"{KEY}.json"]
    assert files[0].stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version": 1, "key": "',
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"version": 1}',
        json.dumps({"version": 1, "key": "another", "text": "x"}).encode(),
        json.dumps({"version": 0, "key": KEY, "text": "x"}).encode(),
        json.dumps({"version": 1, "key": KEY, "text": 5}).encode(),
    ],
)
def test_a_torn_or_foreign_file_is_ignored_and_replaced(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, REPLY)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content)
    assert cache.get(KEY) is None
    cache.put(KEY, REPLY)
    assert cache.get(KEY) is not None


def test_a_folder_that_cannot_be_made_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    cache = Cache(tmp_path / "file" / "cache", notes.append)
    for _ in range(2):
        cache.put(KEY, REPLY)
        assert cache.get(KEY) is None
        cache.forget(KEY)
    assert len(notes) == 1
    assert str(tmp_path / "file" / "cache") in notes[0]


def test_two_processes_write_the_same_keys(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from refine_rl.llm.cache import Cache\n"
        "from refine_rl.llm.client import Reply\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "for n in range(300):\n"
        "    key = f'{n % 7:064d}'\n"
        "    kept = cache.get(key)\n"
        "    assert kept is None or kept.text == 'x' * 5000 + key, kept\n"
        "    cache.put(key, Reply(text='x' * 5000 + key))\n"
        "    assert cache.get(key).text == 'x' * 5000 + key\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 7


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"REFINE_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/refine-rl/llm"),
        ({"REFINE_CACHE": "", "XDG_CACHE_HOME": ""}, str(Path.home() / ".cache/refine-rl/llm")),
    ],
)
def test_where_it_is(environ: dict[str, str], folder: str) -> None:
    assert default_folder(environ) == Path(folder)
