"""Votes: which pairs, whose side, what stands, what it comes to."""

from __future__ import annotations

from typing import Any

import make
from refine_rl.evaluate.votes import Count, Pair, left_of, majority, pairs_of, standing, tally
from refine_rl.types import Outcome


def outcome(name: int, *said: tuple[str, float | None], greedy: tuple[str, float] = ("g", 0.5)) -> Outcome:
    of = make.prompt(name, f"Prompt {name}.", split="held_out")
    attempts = make.attempts(of, *(text for text, _ in said))
    last = make.attempts(of, greedy[0])[0]
    return Outcome(
        prompt=of,
        sampled=tuple((t, make.score(value)) for t, (_, value) in zip(attempts, said, strict=True)),
        greedy=(last, make.score(greedy[1])),
    )


BASE = [outcome(n, ("bad", 0.1), ("worse", 0.0)) for n in range(12)]
TUNED = [outcome(n, ("good", 0.9), ("better", 1.0)) for n in range(12)]


def record(pair: Pair, vote: str, reviewer: str = "ada", left: str = "tuned", **more: Any) -> dict[str, Any]:
    return {
        "time": "2026-01-01T00:00:00",
        "reviewer": reviewer,
        "prompt_id": pair.prompt.id,
        "kind": pair.kind,
        "member": pair.member,
        "mark": pair.mark,
        "left": left,
        "vote": vote,
    } | more


def test_everybody_has_the_same_pairs_in_an_order_of_the_seed() -> None:
    pairs = pairs_of(BASE, TUNED, 0)
    assert pairs == pairs_of(BASE, TUNED, 0)
    names = [pair.prompt.id for pair in pairs]
    assert sorted(names) == sorted(o.prompt.id for o in BASE)
    assert names != sorted(names) != [p.prompt.id for p in pairs_of(BASE, TUNED, 1)]
    assert {pair.member for pair in pairs} == {0, 1}
    for pair in pairs:  # both answers were drawn alike
        assert pair.base[0].member == pair.tuned[0].member == pair.member
        assert [m["content"] for m in pair.said("tuned")] == [("good", "better")[pair.member]]
        assert pair.judged == "tuned"


def test_answers_that_are_alike_are_no_pair() -> None:
    alike = [
        outcome(0, ("same", 0.5)),
        outcome(1, ("same", 0.5), greedy=("one", 0.1)),
        outcome(2, ("a", None)),
    ]
    other = [
        outcome(0, (" same ", 0.5)),
        outcome(1, ("same", 0.5), greedy=("two", 0.1)),
        outcome(2, ("b", 1.0)),
    ]
    found = {pair.prompt.id: pair for pair in pairs_of(alike, other, 0)}
    assert sorted(found) == ["p1", "p2"]
    assert (found["p1"].kind, found["p1"].judged) == ("greedy", "tie")
    assert (found["p2"].kind, found["p2"].judged) == ("sampled", None)  # one has no reward


def test_the_sides_are_drawn_for_each_reviewer_and_prompt() -> None:
    pairs = pairs_of(BASE, TUNED, 0)
    ada = [left_of(pair, "ada", 0) for pair in pairs]
    assert ada == [left_of(pair, "ada", 0) for pair in pairs]
    assert 3 <= ada.count("base") <= 9
    assert ada != [left_of(pair, "bob", 0) for pair in pairs]
    many = [left_of(pair, f"reviewer {n}", 0) for pair in pairs for n in range(100)]
    assert 0.45 < many.count("base") / len(many) < 0.55


def test_what_stands_of_the_votes() -> None:
    one, two, three, *_ = pairs_of(BASE, TUNED, 0)
    records = [
        record(one, "left"),
        record(two, "right"),
        record(two, "left", left="base"),  # voted on again: the newest counts
        record(three, "tie"),
        record(three, "undone"),
        record(one, "right", reviewer="bob"),
        record(two, "left", reviewer="bob", mark="of other answers"),
        record(three, "left", reviewer="eve"),
        record(three, "undone", reviewer="eve"),
    ]
    assert standing(records, [one, two, three]) == {
        "ada": {one.prompt.id: "tuned", two.prompt.id: "base"},
        "bob": {one.prompt.id: "base"},
    }


def test_a_tally_worked_by_hand() -> None:
    pairs = pairs_of(BASE, TUNED, 0)
    names = [pair.prompt.id for pair in pairs]
    ada = dict(zip(names, ["tuned"] * 8 + ["base"] * 2 + ["tie"] * 2, strict=True))
    bob = dict(zip(names[:6], ["tuned"] * 4 + ["base"] * 2, strict=True))
    found = tally({"ada": ada, "bob": bob}, pairs, 0)
    assert found.reviewers == {"ada": Count(tuned=8, base=2, tie=2), "bob": Count(tuned=4, base=2, tie=0)}
    # Of the first six two are contested, and tie.
    assert found.all == Count(tuned=6, base=2, tie=4)
    assert found.all.share == 0.75
    low, high = found.all.ci95
    assert (round(low, 3), round(high, 3)) == (0.409, 0.929)
    assert found.all.votes == 12
    assert (found.with_reward.pairs, found.with_reward.alike) == (12, 0.5)
    assert found.with_each["ada"].alike == 8 / 12
    between = found.among[("ada", "bob")]
    assert (between.pairs, round(between.alike, 4), between.kappa) == (6, 0.6667, 0.0)


def test_a_majority_of_three() -> None:
    votes = {"a": {"p": "tuned"}, "b": {"p": "base"}, "c": {"p": "base"}}
    assert majority(votes) == {"p": "base"}
    assert majority({"a": {"p": "tuned"}, "b": {"p": "base"}, "c": {"p": "tie"}}) == {"p": "tie"}
    assert Count(tuned=0, base=0, tie=3).share is None
