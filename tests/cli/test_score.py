"""refine score over real HTTP: what it writes, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import refine_rl
from refine_rl.errors import MachineError, UserError
from refine_rl.llm.scripted import ScriptedConnections
from refine_rl.pipeline.score import Judges
from refine_rl.pipeline.score_file import Tally, score_file

Refine = Callable[..., Any]
StartServer = Callable[..., Any]
SHOWN = re.compile(r'<trajectory id="([^"]*)">\n(.*)\n</trajectory>')


def by_length(body: Mapping[str, Any]) -> str:
    """A judge: a tenth for each character, at most 1."""
    shown = {i: json.loads(t)[0]["content"] for i, t in SHOWN.findall(body["messages"][1]["content"])}
    scores = [
        {"trajectory_id": i, "explanation": f"{len(t)} signs", "score": min(1, len(t) / 10)}
        for i, t in shown.items()
    ]
    return json.dumps({"scores": scores})


def group(name: str | int, *completions: str) -> dict[str, Any]:
    return {
        "id": name,
        "messages": [{"role": "user", "content": f"Say {name}."}],
        "completions": list(completions),
    }


def write(path: Path, *groups: Any) -> Path:
    path.write_text("".join(g if isinstance(g, str) else json.dumps(g) + "\n" for g in groups))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return write(
        tmp_path / "groups.jsonl",
        group("a", "x", "xxx"),
        {**group(7, "same", "same"), "extra": [1]},
        group("c", "äöü", "x", "äöü", "xxxxxxxxxxxx"),
        group("d", "alone"),
    )


def test_a_file_is_scored_in_its_order(
    refine: Refine, llm_server: StartServer, groups: Path, tmp_path: Path
) -> None:
    second = threading.Event()
    hold = lambda n: second.wait(60) if n == 0 else second.set()  # noqa: E731
    server = llm_server(brain=by_length, hold=hold, cost=0.25)
    done = refine(
        "score", groups, "--out", "out.jsonl", "--task", "Be long.", "--judge", "local/m", "--base-url",
        server.base_url,
    )  # fmt: skip
    assert (done.code, done.out) == (0, "out.jsonl\n")
    assert done.err == "4 groups, 9 scores, 0 missing; 2 calls, $0.50\n"
    a, seven, c, d = lines(tmp_path / "out.jsonl")
    assert a == {
        "id": "a",
        "scores": [
            {"value": 0.1, "status": "scored", "explanation": "1 signs"},
            {"value": 0.3, "status": "scored", "explanation": "3 signs"},
        ],
        "agreement": None,
        "calls": 1,
        "cost_usd": 0.25,
    }
    assert seven["id"] == 7
    assert [s["value"] for s in seven["scores"]] == [0.5, 0.5]
    assert seven["scores"][0]["explanation"] == "not judged: all 2 answers are the same"
    assert (seven["calls"], seven["cost_usd"], d["calls"]) == (0, 0.0, 0)
    assert [s["value"] for s in c["scores"]] == [0.3, 0.1, 0.3, 1.0]
    assert not (tmp_path / "out.jsonl.part").exists()
    assert len(server.requests) == 2
    assert "Be long." in server.requests[0]["messages"][0]["content"]


def test_completions_of_several_turns_are_shown_turn_by_turn(
    refine: Refine, llm_server: StartServer, tmp_path: Path
) -> None:
    """The judge counts the policy's words over all turns."""

    def by_turns(body: Mapping[str, Any]) -> str:
        shown = {i: json.loads(t) for i, t in SHOWN.findall(body["messages"][1]["content"])}
        return json.dumps(
            {
                "scores": [
                    {
                        "trajectory_id": i,
                        "explanation": " ".join(m["role"] for m in turns),
                        "score": sum(len(m["content"]) for m in turns if m["role"] == "assistant") / 10,
                    }
                    for i, turns in shown.items()
                ]
            }
        )

    game = [
        {"role": role, "content": text} for role, text in zip(("assistant", "user") * 2, "abcd", strict=True)
    ]
    one = {**group("a", "xxx"), "completions": [game, "xxx"]}
    broken = {**group("b", "x"), "completions": [[{"role": "assistant"}]]}
    server = llm_server(brain=by_turns)
    asks = ("--out", "out.jsonl", "--task", "Play.", "--judge", "local/m", "--base-url", server.base_url)
    done = refine("score", write(tmp_path / "games.jsonl", one), *asks)
    assert done.code == 0, done.err
    (line,) = lines(tmp_path / "out.jsonl")
    assert [s["value"] for s in line["scores"]] == [0.2, 0.3]
    assert line["scores"][0]["explanation"] == "assistant user assistant user"
    refused = refine("score", write(tmp_path / "broken.jsonl", broken), *asks)
    assert refused.code == 2
    assert "broken.jsonl:1: has a message that is not" in refused.err


def test_panel_repeats_rubric_and_json(refine: Refine, llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server(brain=by_length)
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"))
    (tmp_path / "rubric.md").write_text("Longer is better.")
    done = refine(
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--judge", "local/n",
        "--repeats", "2", "--rubric", "rubric.md", "--concurrency", "1", "--json",
        "--base-url", server.base_url,
    )  # fmt: skip
    assert done.code == 0
    assert json.loads(done.out) == {
        "out": "out.jsonl", "groups": 1, "scores": 2, "asked": 2, "missing": 0, "calls": 4,
        "unusable": 0, "cost_usd": None,
    }  # fmt: skip
    assert "4 calls, at unknown cost" in done.err
    (line,) = lines(tmp_path / "out.jsonl")
    assert (line["agreement"], line["calls"], line["cost_usd"]) == (1.0, 4, None)
    assert sorted(request["model"] for request in server.requests) == ["m", "m", "n", "n"]
    assert len({request["messages"][1]["content"] for request in server.requests}) == 4
    assert "Longer is better." in server.requests[0]["messages"][0]["content"]
    assert server.most_at_once == 1


@pytest.mark.parametrize(("kind", "brain", "calls"), [
    ("absolute", lambda body: '{"explanation": "so", "score": 10}', 2),
    ("pairwise", lambda body: '{"explanation": "so", "winner": "tie"}', 2),
])  # fmt: skip
def test_other_kinds(
    refine: Refine, llm_server: StartServer, tmp_path: Path, kind: str, brain: Any, calls: int
) -> None:
    server = llm_server(brain=brain)
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"))
    done = refine(
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--kind", kind, "--base-url",
        server.base_url,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(server.requests) == calls
    assert {s["value"] for s in lines(tmp_path / "out.jsonl")[0]["scores"]} == {
        1.0 if kind == "absolute" else 0.5
    }


def test_a_judge_of_whom_nothing_can_be_used_is_given_up_early(
    refine: Refine, llm_server: StartServer, tmp_path: Path
) -> None:
    server = llm_server(brain=lambda body: "Both are fine.")
    write(tmp_path / "in.jsonl", group("same", "x", "x"), *[group(n, "x", "xxx") for n in range(100)])
    command = ("score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--concurrency", "1")
    done = refine(*command, "--base-url", server.base_url)
    assert done.code == 4
    assert "No reply about the first 8 groups could be used. The last reason: local/m: " in done.err
    assert "9 of 101 groups are in out.jsonl.part" in done.err
    asked = {re.findall(r"Say \w+", r["messages"][1]["content"])[0] for r in server.requests}
    assert 8 <= len(asked) <= 10


def test_replies_are_kept_where_asked_for(refine: Refine, llm_server: StartServer, tmp_path: Path) -> None:
    bad = iter(["Both are fine.", '{"scores": []}'])
    server = llm_server(brain=lambda body: next(bad, None) or by_length(body))
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"))
    command = ("score", "in.jsonl", "--judge", "local/m", "--base-url", server.base_url)
    done = refine(*command, "--out", "out.jsonl", "--replies", "replies.jsonl")
    assert done.code == 0
    assert "3 calls, at unknown cost, 2 replies that could not be used" in done.err
    kept = lines(tmp_path / "replies.jsonl")
    assert [(k["id"], k["outcome"], k["about"]) for k in kept] == [
        (1, "unusable", "a"),
        (2, "unusable", "a"),
        (3, "ok", "a"),
    ]
    assert kept[0]["reply"] == "Both are fine."
    assert kept[0]["error"] == "There is no JSON in the reply."
    assert kept[2]["messages"][:2] == server.requests[0]["messages"]
    again = refine(*command, "--out", "new.jsonl", "--replies", "replies.jsonl")
    assert (again.code, "replies.jsonl exists already" in again.err) == (2, True)
    nowhere = refine(*command, "--out", "new.jsonl", "--replies", "no/such/folder.jsonl")
    assert (nowhere.code, "cannot be written" in nowhere.err) == (2, True)
    assert not (tmp_path / "new.jsonl.part").exists()
    # A mistake in the judge's name leaves no file behind.
    unknown = refine("score", "in.jsonl", "--out", "n.jsonl", "--judge", "nobody/m", "--replies", "r.jsonl")
    assert unknown.code == 2
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(("kind", "calls"), [("ruler", 3), ("absolute", 6), ("pairwise", 6)])
def test_looks_of_one_judge_are_never_copies(
    refine: Refine, llm_server: StartServer, tmp_path: Path, kind: str, calls: int
) -> None:
    def brain(body: Mapping[str, Any]) -> str:
        grade = {"explanation": "so", "score": 10, "winner": "tie"}
        return by_length(body) if kind == "ruler" else json.dumps(grade)

    server = llm_server(brain=brain)
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"))
    command = ("score", "in.jsonl", "--judge", "local/m", "--kind", kind, "--repeats", "3", "--base-url")
    assert refine(*command, server.base_url, "--out", "one.jsonl").code == 0
    assert len({json.dumps(request) for request in server.requests}) == len(server.requests) == calls
    # Asked again, each look gets its own reply from the cache.
    assert refine(*command, server.base_url, "--out", "two.jsonl").code == 0
    assert len(server.requests) == calls
    one, two = lines(tmp_path / "one.jsonl"), lines(tmp_path / "two.jsonl")
    assert [(n["scores"], n["agreement"]) for n in one] == [(n["scores"], n["agreement"]) for n in two]


def test_unusable_replies_are_missing_and_no_failure(
    refine: Refine, llm_server: StartServer, tmp_path: Path
) -> None:
    def brain(body: Mapping[str, Any]) -> str:
        return "No." if "Say bad." in body["messages"][1]["content"] else by_length(body)

    server = llm_server(brain=brain)
    write(tmp_path / "in.jsonl", group("bad", "x", "xxx"), group("good", "x", "xxx"))
    done = refine(
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--base-url", server.base_url
    )
    assert (done.code, done.out) == (0, "out.jsonl\n")
    assert "2 groups, 4 scores, 2 missing" in done.err
    bad, good = lines(tmp_path / "out.jsonl")
    assert [(s["value"], s["status"]) for s in bad["scores"]] == [(None, "missing")] * 2
    assert "no usable reply" in bad["scores"][0]["explanation"]
    assert [s["value"] for s in good["scores"]] == [0.1, 0.3]


def test_a_judge_of_whom_nothing_can_be_used_is_a_failure(
    refine: Refine, llm_server: StartServer, tmp_path: Path
) -> None:
    """Also beside an answer that is alone in its group, for which no judge is asked."""
    server = llm_server(brain=lambda body: "No.")
    write(tmp_path / "in.jsonl", group("bad", "x", "xxx"), group("alone", "x"))
    done = refine(
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--base-url", server.base_url
    )
    assert (done.code, done.out) == (4, "out.jsonl\n")
    assert "all 2 scores for which a judge was asked are missing" in done.err
    assert len(lines(tmp_path / "out.jsonl")) == 2


@pytest.mark.parametrize(("mood", "words"), [("401", "key"), ("404", "model"), ("402", "credits|money|402")])
def test_an_endpoint_that_refuses_ends_with_4(
    refine: Refine, llm_server: StartServer, groups: Path, tmp_path: Path, mood: str, words: str
) -> None:
    server = llm_server(moods=mood)
    done = refine("score", groups, "--out", "out.jsonl", "--judge", "local/m", "--base-url", server.base_url)
    assert (done.code, done.out) == (4, "")
    assert re.search(words, done.err)
    assert "Nothing was scored yet." in done.err
    assert "Traceback" not in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["groups.jsonl"]


def test_what_was_paid_is_not_asked_again(refine: Refine, llm_server: StartServer, tmp_path: Path) -> None:
    broken = True

    def mood(number: int, body: Mapping[str, Any]) -> str:
        return "401" if broken and "Say c." in body["messages"][1]["content"] else "ok"

    server = llm_server(brain=by_length, moods=mood)
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"), group("b", "x", "xx"), group("c", "x", "xxx"))
    command = [
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--concurrency", "1", "--base-url",
        server.base_url,
    ]  # fmt: skip
    done = refine(*command)
    assert done.code == 4
    assert "2 of 3 groups are in out.jsonl.part" in done.err
    assert [line["id"] for line in lines(tmp_path / "out.jsonl.part")] == ["a", "b"]
    assert not (tmp_path / "out.jsonl").exists()
    asked = len(server.requests)
    broken = False
    assert refine(*command).code == 0
    assert len(server.requests) == asked + 1
    assert [(line["id"], line["calls"]) for line in lines(tmp_path / "out.jsonl")] == [
        ("a", 0),
        ("b", 0),
        ("c", 1),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_the_cap_stops_with_3(refine: Refine, llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server(brain=by_length)
    write(tmp_path / "in.jsonl", *(group(f"g{n}", "x", "xxx") for n in range(9)))
    command = [
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--concurrency", "1", "--base-url",
        server.base_url, "--dollars", "2", "--price", "0,50000",
    ]  # fmt: skip
    done = refine(*command)
    cost = server.billed[0][1] * 0.05
    assert cost > 0.5  # so that the cap is reached on the way
    assert (done.code, done.out) == (3, "")
    assert "--dollars is 2" in done.err
    assert "Raise --dollars to go on." in done.err
    assert "budget.dollars" not in done.err
    assert sum(billed[1] for billed in server.billed) * 0.05 <= 2 + cost
    assert re.search(r"[1-8] of 9 groups are in out.jsonl.part", done.err)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://me:sk-hidden@p:1080", "the proxy socks5://p:1080 (HTTPS_PROXY) speaks SOCKS.*pip install"),
        ("http://me:sk-hidden@p:port", "what HTTPS_PROXY holds is no proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_the_users_mistake(
    refine: Refine, groups: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, words: str
) -> None:
    monkeypatch.setattr("refine_rl.llm.proxies.find_spec", lambda name: None)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("A_KEY", "k")
    done = refine(
        "score", groups, "--out", "out.jsonl", "--judge", "there/m", "--base-url", "https://api.example/v1",
        "--key-env", "A_KEY",
    )  # fmt: skip
    assert (done.code, done.out) == (2, "")
    assert re.search(words.replace("(", "[(]").replace(")", "[)]"), done.err)
    assert "sk-hidden" not in done.err


def test_an_endpoint_that_does_not_answer_at_first_is_told_of(
    refine: Refine, llm_server: StartServer, tmp_path: Path
) -> None:
    server = llm_server(brain=by_length, moods=["503:0.01"])
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"))
    done = refine(
        "score", "in.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--base-url", server.base_url
    )
    assert done.code == 0
    said = " ".join(done.err.split())
    assert f"The endpoint `local` ({server.base_url}) gives no reply: The engine is overloaded." in said


def test_every_line_is_on_the_disk_at_once(llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server(brain=by_length)
    write(tmp_path / "in.jsonl", group("a", "x", "xxx"), group("b", "x", "xx"))
    seen: list[tuple[int, int]] = []

    def progress(tally: Tally, groups: int) -> None:
        seen.append((tally.groups, len(lines(tmp_path / "out.jsonl.part"))))

    judges = Judges(models=("local/m",), base_url=server.base_url)
    score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", judges, progress=progress)
    assert seen == [(1, 1), (2, 2)]


def test_mistakes_are_named_before_any_call(refine: Refine, llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server(brain=by_length)
    write(
        tmp_path / "bad.jsonl",
        group("a", "x"),
        "{'id': 1}\n",
        "[1]\n",
        {"messages": [], "completions": ["x"]},
        {"id": True, "messages": [{"role": "user", "content": "x"}], "completions": ["x"]},
        {"id": "e", "messages": [], "completions": ["x"]},
        "\n",
        {"id": "f", "messages": [{"role": "user"}], "completions": ["x"]},
        {"id": "g", "messages": [{"role": "user", "content": "x"}], "completions": []},
        {"id": "h", "messages": [{"role": "user", "content": "x"}], "completions": ["x", 1]},
        group("a", "y"),
        {"id": "i", "messages": [{"role": "user", "content": "x"}], "completions": "x"},
        group("j", "\ud800"),
    )
    done = refine(
        "score", "bad.jsonl", "--out", "out.jsonl", "--judge", "local/m", "--base-url", server.base_url
    )
    assert (done.code, done.out, server.requests) == (2, "", [])
    assert done.err.splitlines() == [
        "error  bad.jsonl:2: is not JSON: Expecting property name enclosed in double quotes at column 2",
        'bad.jsonl:3: is not an object {"id", "messages", "completions"}',
        "bad.jsonl:4: has no `id`",
        "bad.jsonl:5: has an `id` that is neither text nor a whole number",
        "bad.jsonl:6: has `messages` that are not a list, or an empty one",
        "bad.jsonl:8: has a message that is not {\"role\", \"content\"}, both text: {'role': 'user'}",
        "bad.jsonl:9: has `completions` that are not a list, or an empty one",
        "bad.jsonl:10: has a completion that is neither text nor a list of messages",
        "bad.jsonl:11: has the id 'a', which line 1 has already",
        "bad.jsonl:12: has `completions` that are not a list, or an empty one",
        "... and 1 more",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


LOCAL = ["--judge", "local/m", "--base-url", "http://127.0.0.1:1/v1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.jsonl", "--out", "o", *LOCAL], "no.jsonl: no such file"),
        (["empty.jsonl", "--out", "o", *LOCAL], "empty.jsonl: there are no groups in it"),
        (["in.jsonl", "--out", "empty.jsonl", *LOCAL], "empty.jsonl exists already"),
        (["in.jsonl", "--out", "no/o", *LOCAL], "no/o: there is no folder no; make it first"),
        (["in.jsonl", "--out", "o", "--judge", "opnai/x"], "no endpoint `opnai`; did you mean `openai`"),
        (
            ["in.jsonl", "--out", "o", "--judge", "local/m"],
            r"no endpoint `local`.*\(here: --base-url URL, in Python base_url=\)",
        ),
        (
            ["in.jsonl", "--out", "o", "--judge", "m/x", "--base-url", "https://x/v1?key=sk-hidden"],
            "^error --base-url must end before .*the environment variable that --key-env names",
        ),
        (
            ["in.jsonl", "--out", "o", "--judge", "m/x", "--base-url", "https://a:sk-hidden@x/v1"],
            "--base-url holds a name or password",
        ),
        (["in.jsonl", "--out", "o", "--judge", "openai/x"], "OPENAI_API_KEY is not set"),
        (["in.jsonl", "--out", "o", "--judge", "local"], "`local` does not name a model"),
        (
            ["in.jsonl", "--out", "o", "--judge", "x/m", "--base-url", "https://x.invalid/v1"],
            "--key-env must name the environment variable that holds the key for `x/m`",
        ),
        (["in.jsonl", "--out", "o", *LOCAL, "--key-env", "NO_KEY"], "NO_KEY is not set"),
        (["in.jsonl", "--out", "o", *LOCAL, "--rubric", "no.md"], "no.md: no such file"),
        (["in.jsonl", "--out", "o", *LOCAL, "--rubric", "empty.jsonl"], "the rubric is empty"),
        (
            ["in.jsonl", "--out", "o", *LOCAL, "--dollars", "1"],
            "--dollars needs to know what `local/m` costs",
        ),
        (["in.jsonl", "--out", "o", *LOCAL, "--dollars", "0"], "--dollars must be more than 0"),
        (["in.jsonl", "--out", "o", *LOCAL, "--price", "1"], "--price 1: give two numbers"),
        (["in.jsonl", "--out", "o", *LOCAL, "--price", "1,-1"], "--price 1,-1: give two numbers"),
        (["in.jsonl", "--out", "o", *LOCAL, "--price=-1,1"], "give two numbers"),
        (["in.jsonl", "--out", "o", *LOCAL, "--price", "1,nan"], "give two numbers"),
        (["in.jsonl", "--out", "o", *LOCAL, "--kind", "rule"], "ruler"),
        (["in.jsonl", "--out", "o", *LOCAL, "--repeats", "0"], "repeats"),
        (["in.jsonl", "--out", "o"], "--judge"),
    ],
)
def test_mistakes(
    refine: Refine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write(tmp_path / "in.jsonl", group("a", "x", "y"))
    (tmp_path / "empty.jsonl").touch()
    done = refine("score", *arguments)
    assert (done.code, done.out) == (2, "")
    assert re.search(words, " ".join(done.err.split())), done.err
    assert "sk-hidden" not in done.err
    assert "Traceback" not in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.jsonl", "in.jsonl"]


def test_ctrl_c_keeps_what_was_done(llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server(brain=by_length, delay=lambda n: 0.0 if n < 2 else 300.0)
    write(tmp_path / "in.jsonl", *(group(f"g{n}", "x", "xxx") for n in range(4)))
    command = [str(Path(sys.executable).with_name("refine")), "score", "in.jsonl", "--out", "out.jsonl"]
    command += ["--judge", "local/m", "--base-url", server.base_url, "--concurrency", "1"]
    child = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while len(server.requests) < 3 and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert (child.returncode, out) == (130, "")
    assert "2 of 4 groups are in out.jsonl.part" in err
    assert "Traceback" not in err
    assert [line["id"] for line in lines(tmp_path / "out.jsonl.part")] == ["g0", "g1"]


MESSAGES = [{"role": "user", "content": "Say hi."}]


def test_the_same_in_python(llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server(brain=by_length)
    (tmp_path / "rubric.md").write_text("Longer is better.")

    async def both() -> list[Any]:
        return [
            await refine_rl.score_group(
                MESSAGES, ["x", "xxx"], judge="local/m", base_url=server.base_url, repeats=2,
                rubric=tmp_path / "rubric.md", task="Be long.",
            ),
            await refine_rl.score_group(
                MESSAGES, ["x", "xxx"], judge=["local/m", "local/n"], base_url=server.base_url, rubric="Long!"
            ),
        ]  # fmt: skip

    for scores in asyncio.run(both()):
        assert [score.value for score in scores] == [0.1, 0.3]
        assert scores[0].agreement == 1.0
    systems = [request["messages"][0]["content"] for request in server.requests]
    assert ["Longer is better." in text for text in systems] == [True, True, False, False]
    assert ["Long!" in text for text in systems] == [False, False, True, True]


def test_python_mistakes_and_refusals(llm_server: StartServer) -> None:
    def score(completions: Any = ("x", "y"), **changes: Any) -> Any:
        return asyncio.run(
            refine_rl.score_group(
                changes.pop("messages", MESSAGES), completions, **{"judge": "s/j", **changes}
            )
        )

    here = ScriptedConnections({"s/j": lambda request: by_length({"messages": request.messages})})
    assert [s.value for s in score(connections=here)] == [0.1, 0.1]
    for changes, words in (
        ({"completions": "x"}, "completions='x': give a list of texts, one an answer"),
        ({"messages": ["Say hi."]}, "messages=['Say hi.']: give a list, as in"),
        ({"kind": "rule"}, "kind: Input should be"),
        ({"repeats": 0}, "repeats=0: give a whole number from 1 on"),
        ({"rubric": " "}, "the rubric is empty"),
        ({"rubric": "rubric.md"}, "'rubric.md' is a file's name: give a pathlib.Path"),
        ({"rubric": "- a (weight 0): x"}, "line 1: the weight of `a`"),
        ({"judge": []}, "judge=[]: "),
        ({"judge": "s/other"}, "no scripted model `s/other`"),
    ):
        with pytest.raises(UserError) as caught:
            score(**{"connections": here, **changes})  # type: ignore[arg-type]
        assert words in str(caught.value)
    with pytest.raises(MachineError):
        score(judge="local/m", base_url=llm_server(moods="401").base_url)


def test_lines_that_python_alone_would_stumble_over_are_named(
    refine: Callable[..., Any], tmp_path: Path
) -> None:
    group = '{"id": 1, "messages": [{"role": "user", "content": "Hi"}], "completions": ["a", "b"]'
    lines = [
        group + ', "n": ' + "9" * 5000 + "}",
        group + ', "n": ' + "[" * 100_000 + "]" * 100_000 + "}",
        group + ', "id": 2}',
    ]
    (tmp_path / "g.jsonl").write_text("\n".join(lines))
    done = refine("score", "g.jsonl", "--out", "o.jsonl", "--judge", "ollama/x")
    assert done.code == 2
    said = done.err.splitlines()
    assert "g.jsonl:1: has a whole number of 5,000 digits" in said[0]
    assert said[1].startswith("g.jsonl:2: is nested too deeply")
    assert said[2].startswith("g.jsonl:3: names 'id' twice in one object")
