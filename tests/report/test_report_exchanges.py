"""What was asked and replied, on the page: escaped, one click away, and thinned with a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.llm.client import Call, Exchange
from refine_rl.report.exchanges import choose, collect
from refine_rl.report.page import render
from refine_rl.run import RunFolder

INSTRUCTIONS = "Judge them all. " * 50


@pytest.fixture
def run(make_run: Callable[..., RunFolder], tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", steps=0, held_out=2)


def add(run: RunFolder, number: int, *, reply: str | None = "fine", **changes: Any) -> None:
    error = changes.pop("error", "")
    call = Call(
        **{
            "id": number,
            "purpose": "judge",
            "endpoint": "mine",
            "model": "judge",
            "tokens_in": 1,
            "tokens_out": 1,
            "cost_usd": 0.1,
            "seconds": 0.1,
            "outcome": "unusable" if error else "ok",
            "extra": {"error": error} if error else {},
            **changes,
        }
    )
    messages = (
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": f"<b>question {number}</b>"},
    )
    run.exchanges.append(Exchange(call=call, messages=messages, form="text", reply=reply))
    run.calls.append(call)


def test_calls_stand_on_the_page_escaped_and_the_instructions_once(run: RunFolder) -> None:
    add(run, 1, about="p0001", reply='{"score": "<script>alert(1)</script>"}')
    add(run, 2, reply="no idea", error="There is no JSON in the reply.")
    add(run, 3, reply=None, outcome="timeout", error="no answer within 9 s")
    add(run, 4, purpose="writer")
    page = render(run)
    assert "What was asked, and what was replied (4 calls)" in page
    assert page.count(INSTRUCTIONS.strip()) == 1
    assert page.count("(as in call 1)") == 3
    assert "&lt;b&gt;question 2&lt;/b&gt;" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Not used: There is no JSON in the reply." in page
    assert '<p class="why">no answer within 9 s</p>' in page
    assert "To keep the page small it has" not in page.partition("What was asked, and what was replied")[2]
    assert [call.first for call in collect(run, 10**6).shown] == [True, True, False, True]


def test_a_page_that_would_grow_too_large_has_fewer_and_says_so(run: RunFolder) -> None:
    for number in range(1, 201):
        add(run, number, reply="x" * 700, error="bad" if number in (50, 51, 52) else "")
    found = collect(run, 20_000)
    assert found.total == 200
    ids = [call.id for call in found.shown]
    assert 15 <= len(ids) <= 20
    assert ids == sorted(ids)
    assert {1, 50, 51, 52} <= set(ids)  # the first, and all that could not be used
    assert max(b - a for a, b in zip([0, *ids], [*ids, 200], strict=True)) <= 20  # spread over the run
    small = render(run, page_bytes=200_000)
    assert f"To keep the page small it has {len(ids)} of 200 calls" in small
    assert len(render(run)) - len(small) > 100_000


def test_a_long_text_is_cut_with_a_word(run: RunFolder) -> None:
    add(run, 1, reply="y" * 50_000)
    (call,) = collect(run, 10**6).shown
    assert call.reply is not None
    assert len(call.reply) < 7000
    assert "more characters in the run" in call.reply


def test_a_run_that_keeps_nothing_says_so(run: RunFolder) -> None:
    run.calls.append(
        Call(
            purpose="judge", endpoint="e", model="m", tokens_in=1, tokens_out=1, cost_usd=0.1, seconds=0.1,
            outcome="ok",
        )
    )  # fmt: skip
    assert "What was asked and replied was not kept" in render(run)


def test_choosing_spends_at_most_half_on_what_came_to_nothing() -> None:
    failed = list(range(0, 100, 2))
    kept = choose([10] * 100, firsts=[1], failed=failed, limit=200)
    assert len(kept) == 20
    assert 1 in kept
    assert len(kept & set(failed)) >= 9
    assert choose([500, 10], firsts=[0], failed=[], limit=100) == {1}  # one too large is left out
    assert choose([], firsts=[], failed=[], limit=100) == set()
