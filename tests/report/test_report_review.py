"""Votes in the browser: what the server takes and tells, what is on the disk; one way through by keys."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from browsing import CONTRAST, Visit, browser, needs_browser
from refine_rl.errors import UserError
from refine_rl.evaluate.votes import left_of, pairs_of
from refine_rl.pipeline.review import Review, tally_of
from refine_rl.report.page import render
from refine_rl.run import RunFolder

__all__ = ["browser"]


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., RunFolder], hostile: Any
) -> RunFolder:
    """A small finished run; the tuned model's first answer tries to break out of the page."""
    folder = tmp_path_factory.mktemp("source") / "messages"
    return make_run(folder, steps=2, prompts_per_step=2, group_size=2, held_out=8, texts=hostile)


@pytest.fixture
def run(source: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(source.path, tmp_path / "messages")))


class Page:
    """What a page would ask of a review at an address."""

    def __init__(self, address: str) -> None:
        _, _, self.host, self.secret, _ = address.split("/")

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any]:
        connection = HTTPConnection(self.host, timeout=60)
        sent = {}
        if body is not None:
            sent = {"Content-Type": "application/json", "Origin": f"http://{self.host}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        is_json = reply.headers["Content-Type"].startswith("application/json")
        return reply.status, json.loads(text) if is_json else text

    def own(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return self.ask(f"/{self.secret}/{path}", body, **headers)

    def state(self) -> Any:
        return self.own("state")[1]

    def vote(self, vote: str) -> Any:
        return self.own("vote", {"vote": vote, "mark": self.state()["item"]["mark"]})[1]


@pytest.fixture
def served(run: RunFolder) -> Iterator[Callable[..., Page]]:
    with ExitStack() as stack:

        def serve(reviewer: str = "ada", votes: int = 5) -> Page:
            return Page(stack.enter_context(Review(run, reviewer, votes).at(0)))

        yield serve


def test_nobody_is_answered_who_does_not_know_the_address(
    served: Callable[..., Page], run: RunFolder
) -> None:
    page = served()
    assert len(page.secret) >= 20
    for path in ("/", "/state", "/x/state", f"/{page.secret}", f"/{page.secret[:-1]}/"):
        assert page.ask(path)[0] == 404
    assert page.ask("/x/vote", {"vote": "left"})[0] == 404
    status, body = page.own("")
    assert (status, b"Which answer is better?" in body) == (200, True)
    assert not run.votes.exists()


def test_what_is_shown_does_not_tell_whose_answer_it_is(served: Callable[..., Page], run: RunFolder) -> None:
    page = served()
    state = page.state()
    assert state.keys() == {"run", "task", "reviewer", "done", "of", "undo", "item", "result"}
    assert (state["done"], state["of"], state["undo"], state["result"]) == (0, 5, False, None)
    item = state["item"]
    assert item.keys() == {"number", "mark", "prompt", "left", "right"}
    base, tuned = run.outcomes("base") or [], run.outcomes("tuned") or []
    pair = pairs_of(base, tuned, 0)[0]
    assert item["prompt"] == [dict(m) for m in pair.prompt.messages]
    sides = [list(map(dict, pair.said(side))) for side in ("base", "tuned")]
    assert [item["left"], item["right"]] in (sides, sides[::-1])
    told = json.dumps(item).replace(json.dumps(sides)[1:-1], "")
    assert "reward" not in told
    assert "tuned" not in told.replace(pair.said("tuned")[0]["content"], "")


def test_votes_are_on_the_disk_before_the_next_pair_is_shown(
    served: Callable[..., Page], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), sync(descriptor))[1])
    page = served()
    pairs = pairs_of(run.outcomes("base") or [], run.outcomes("tuned") or [], 0)
    for number, vote in enumerate(("left", "right", "tie")):
        after = page.vote(vote)
        assert (after["done"], after["undo"]) == (number + 1, True)
        record = run.votes()[-1]
        assert record.keys() == {"time", "reviewer", "prompt_id", "kind", "member", "mark", "left", "vote"}
        assert (record["reviewer"], record["vote"]) == ("ada", vote)
        assert (record["prompt_id"], record["mark"]) == (pairs[number].prompt.id, pairs[number].mark)
        assert record["left"] == left_of(pairs[number], "ada", 0)
        assert len(synced) == number + 1


def test_a_vote_sent_twice_or_on_another_pair_counts_once(
    served: Callable[..., Page], run: RunFolder
) -> None:
    page = served()
    mark = page.state()["item"]["mark"]
    for _ in range(3):
        status, state = page.own("vote", {"vote": "left", "mark": mark})
        assert (status, state["done"]) == (200, 1)
    assert len(run.votes()) == 1


def test_a_vote_is_taken_back_and_given_anew(served: Callable[..., Page], run: RunFolder) -> None:
    page = served()
    assert page.own("undo", {})[1]["done"] == 0  # there is none yet
    page.vote("left")
    second = page.state()["item"]["mark"]
    page.vote("tie")
    back = page.own("undo", {})[1]
    assert (back["done"], back["item"]["mark"]) == (1, second)
    assert page.own("undo", {})[1]["done"] == 0
    assert page.own("undo", {})[1]["done"] == 0
    assert [r["vote"] for r in run.votes()] == ["left", "tie", "undone", "undone"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"vote": "tuned", "mark": "x"}, "a vote is one of left, right, tie"),
        ({"vote": ["left"]}, "a vote is one of"),
        ({}, "a vote is one of"),
        ([1], "no JSON object"),
        (b"{", "no JSON object"),
        (b"[" * 5000, "no JSON object"),
    ],
)
def test_what_is_no_vote(served: Callable[..., Page], run: RunFolder, body: Any, words: str) -> None:
    status, said = served().own("vote", body)
    assert (status, words in said["error"]) == (400, True)
    assert not run.votes.exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": ""}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_no_other_page_can_vote(
    served: Callable[..., Page], run: RunFolder, headers: dict[str, str], status: int
) -> None:
    page = served()
    body = {"vote": "left", "mark": page.state()["item"]["mark"]}
    assert page.own("vote", body, **headers)[0] == status
    assert not run.votes.exists()


def test_only_what_is_sent_is_taken(served: Callable[..., Page], run: RunFolder) -> None:
    page = served()
    assert page.own("vote", b"x" * 10_001)[0] == 413
    assert page.own("state", {"vote": "left"})[0] == 404
    assert page.ask(f"/{page.secret}/vote", method="PUT", body={})[0] == 405
    assert page.own("vote")[0] == 404  # got, not posted
    assert not run.votes.exists()


def test_several_people_go_on_where_each_stopped(served: Callable[..., Page], run: RunFolder) -> None:
    ada, bob = served("ada", 3), served("bob", 3)
    for vote in ("left", "tie"):
        ada.vote(vote)
    for _ in range(3):
        bob.vote("right")
    with run.votes.path.open("a") as file:
        file.write('{"time": "torn')  # a machine that lost its power
    again = served("ada", 3)
    assert again.state()["done"] == 2
    assert json.loads(run.votes.path.read_text().splitlines()[-1])["reviewer"] == "bob"
    done = again.vote("left")
    assert (done["item"], done["done"]) == (None, 3)
    result = done["result"]
    assert len(result["pairs"]) == 3
    assert result["lines"][0].startswith("You preferred the tuned model in ")
    assert any(line.startswith("ada with bob: alike on ") for line in result["others"])
    assert result["commands"][0] == f"refine review {run.path} --votes 6"
    one = result["pairs"][1]
    assert (one["chosen"], one["left"] in ("base", "tuned")) == ("tie", True)
    assert one["base"].keys() == {"said", "reward"}


def test_votes_on_answers_that_are_gone_do_not_count(served: Callable[..., Page], run: RunFolder) -> None:
    page = served()
    page.vote("left")
    page.vote("left")
    first = pairs_of(run.outcomes("base") or [], run.outcomes("tuned") or [], 0)[0]
    path = run.answers("tuned").path
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["prompt_id"] == first.prompt.id:
            for attempt in (*line["sampled"], line["greedy"]):
                attempt["messages"][-1]["content"] += " And more."
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tally_of(run).all.votes == 1
    assert Review(run, "ada", 5).state()["done"] == 1
    assert "1 more vote on answers that are no longer there does not count." in render(run)


def test_the_report_shows_the_votes(run: RunFolder) -> None:
    run.save_report(render(run))
    assert 'id="people"' not in run.report.read_text()
    with Review(run, "<b>Ada</b>", 4).at(0) as address:
        page = Page(address)
        for _ in range(4):
            page.vote("left")
    html = run.report.read_text()  # made anew as the review ended
    assert '<a href="#people">People</a>' in html
    assert "&lt;b&gt;Ada&lt;/b&gt; preferred" in html
    assert "<b>Ada</b>" not in html
    assert "With the order of the rewards: alike on " in html
    run.calibrations.append(
        {"time": "2026", "judge": "mine/<i>", "rubric": "strict.md", "pairs": 4, "alike": 0.75, "kappa": 0.5}
        | {"ci95": [0.0, 0.9], "failed": 0, "calls": 4, "cost_usd": None}
    )
    html = render(run)
    assert "mine/&lt;i&gt;" in html
    assert "Judges on the pairs that people voted on" in html


def test_who_can_be_asked_about_what(
    run: RunFolder, make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    for name in ("", "  ", "x" * 41, "a\x00b"):
        with pytest.raises(UserError, match="a name has 1 to 40 characters"):
            Review(run, name, 3)
    unfinished = make_run(tmp_path / "u", steps=1, prompts_per_step=1, group_size=2, compared=False)
    with pytest.raises(UserError, match="no answers of both models yet"):
        Review(unfinished, "ada")
    run.save_outcomes("tuned", run.outcomes("base") or [])
    with pytest.raises(UserError, match="base and tuned say the same"):
        Review(run, "ada")


def test_a_damaged_vote_is_named(run: RunFolder) -> None:
    Review(run, "ada", 2).vote({"vote": "tie", "mark": Review(run, "ada", 2).state()["item"]["mark"]})
    text = run.votes.path.read_text()
    run.votes.path.write_text(text.replace('"tie"', '"both"'))
    with pytest.raises(UserError, match=r'votes\.jsonl:1: this line is damaged: `vote` is "both"'):
        tally_of(run)


@needs_browser
def test_a_way_through_by_keys_alone(browser: Any, run: RunFolder, hostile: tuple[str, ...]) -> None:
    review = Review(run, "ada", 8)
    with review.at(0) as address:
        visit = Visit(browser, address, viewport={"width": 390, "height": 844}, color_scheme="dark")
        page, keys = visit.page, visit.page.keyboard
        visit.wait("() => !document.getElementById('welcome').hidden")
        assert "Rewrite the text in the requested style" in page.inner_text("#task")
        keys.press("ArrowLeft")  # nothing is voted on before it has begun
        assert page.evaluate(CONTRAST)[1] < 0.1
        keys.press("?")
        assert page.locator("#help").is_visible()
        keys.press("Space")
        assert page.locator("#pair").is_hidden()
        keys.press("Escape")
        visit.wait("() => !document.getElementById('help').open")
        keys.press("Enter")
        visit.wait("() => !document.getElementById('pair').hidden")
        for width, first, second in ((1300, "Left", "Right"), (390, "First", "Second")):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.locator(".rv-column h2").all_inner_texts() == [first, second]
            assert page.locator(".choice[data-do=right]").inner_text().endswith(f"{second} is better")
        shown = []
        way = [(1, "ArrowLeft"), (2, "ArrowRight"), (3, "ArrowDown"), (4, "u")]
        for at, key in (*way, *((n, "ArrowRight") for n in range(3, 9))):
            visit.wait("text => document.getElementById('count').textContent === text", f"{at} of 8")
            shown.append(page.inner_text("#left") + page.inner_text("#right"))
            assert page.inner_text("#pair-title").startswith(f"Pair {at} of 8")
            keys.press("Control+ArrowLeft")  # the browser's own
            keys.press(key)
        visit.wait("() => !document.getElementById('result').hidden")
        votes = [r["vote"] for r in run.votes()]
        assert votes == ["left", "right", "tie", "undone", *["right"] * 6]
        assert any(hostile[0] in text for text in shown)
        assert page.evaluate("window.hacked") is None
        assert page.inner_text("#lines p >> nth=0").startswith("You preferred the tuned model in ")
        assert page.locator("#revealed li").count() == 8
        assert page.locator("#revealed .rv-taken").count() == 8
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found, paper = page.evaluate(CONTRAST)
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
        assert paper < 0.1
        named = "all => all.every((e) => (e.ariaLabel || e.textContent.trim()).length > 3)"
        assert page.eval_on_selector_all("button, [role=region], progress", named)
        ids = page.eval_on_selector_all("[id]", "all => all.map((e) => e.id)")
        assert len(ids) == len(set(ids))
        assert visit.complaints == []
        assert {url.removeprefix(address) for url in visit.requests} == {"", "state", "vote", "undo"}
        visit.context.close()
