"""Looks brought together: cases, means, agreement, adaptive and larger judges, what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from make import prompt, scored, trajectory
from refine_rl.errors import GuardStop
from refine_rl.llm.background import all_of
from refine_rl.llm.client import EndpointDown
from refine_rl.llm.scripted import Scripted
from refine_rl.rewards.judges.looks import Case, Verdict
from refine_rl.rewards.judges.panel import Panel, agreement, make_case
from refine_rl.types import Played, Score, Trajectory

PROMPT = prompt()

Value = float | None
Looks = Mapping[tuple[str, int], Sequence[Value] | Exception]


@dataclass(frozen=True)
class Fixed:
    """A judging whose looks are written down: (model, look) -> values, or an error."""

    looks: Looks
    relative: bool = True
    asked: list[tuple[str, int]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    delays: Mapping[tuple[str, int], float] = field(default_factory=dict)

    async def look(self, client: Any, case: Case, *, look: int) -> Verdict:
        key = (client.model, look)
        self.asked.append(key)
        self.cases.append(case)
        await asyncio.sleep(self.delays.get(key, 0))
        values = self.looks[key]
        if isinstance(values, Exception):
            raise values
        return Verdict(
            values=tuple(values),
            reasons=tuple(
                f"{key[0]}{look} on {n}" if v is not None else "no reply" for n, v in enumerate(values)
            ),
        )


def judge(name: str) -> Scripted:
    return Scripted([], model=name)


def attempt(*texts: str) -> Trajectory:
    return trajectory(PROMPT, *texts)


def panel(judging: Fixed, *names: str, **changes: Any) -> Panel:
    return Panel(judging=judging, judges=tuple(judge(name) for name in names or ("j",)), **changes)


def score(made: Panel, *texts: str) -> list[Score]:
    return scored(made, PROMPT, *texts)


def values(scores: Sequence[Score]) -> list[Value]:
    return [s.value for s in scores]


def test_the_case_has_the_shared_messages_once_and_each_answer_once() -> None:
    group = [attempt("a", "why?", "b"), attempt("a", "why?", "c"), attempt("a", "why?", "b")]
    case, places = make_case(PROMPT, group)
    assert case.about == "p1"
    assert [m["content"] for m in case.context] == ["Say hi.", "a", "why?"]
    assert [[m["content"] for m in answer] for answer in case.answers] == [["b"], ["c"]]
    assert places == [0, 1, 0]


def test_the_case_of_one_distinct_answer_keeps_it_out_of_the_context() -> None:
    case, places = make_case(PROMPT, [attempt("a"), attempt("a")])
    assert case.context == PROMPT.messages
    assert case.answers == (({"role": "assistant", "content": "a"},),)
    assert places == [0, 0]


def test_an_attempt_that_goes_on_where_another_ends() -> None:
    case, places = make_case(PROMPT, [attempt("a"), attempt("a", "b")])
    assert [m["content"] for m in case.context] == ["Say hi."]
    assert [len(answer) for answer in case.answers] == [1, 2]  # a judge reads something of each
    assert places == [0, 1]


def test_the_case_of_one_game_begins_with_its_first_answer() -> None:
    """What its world says at the beginning stands in the prompt's last message, which is another then."""
    told = prompt("p1", "Say hi.\n\nTo a cat.")
    played = Played(rewards=(0.0, 1.0), end="done")
    game = replace(trajectory(told, "hi", "louder", "HI", "purr"), played=played)
    case, places = make_case(PROMPT, [game, game])
    assert [m["content"] for m in case.context] == ["Say hi.\n\nTo a cat."]
    assert [[m["content"] for m in answer] for answer in case.answers] == [["hi", "louder", "HI", "purr"]]
    assert places == [0, 0]


def test_identical_completions_share_a_score() -> None:
    judging = Fixed({("j", 0): [0.25, 0.75]})
    scores = score(panel(judging), "a", "b", "a", "a")
    assert values(scores) == [0.25, 0.75, 0.25, 0.25]
    assert [s.explanation for s in scores] == ["j0 on 0", "j0 on 1", "j0 on 0", "j0 on 0"]
    assert {(s.status, s.agreement) for s in scores} == {("scored", None)}
    assert len(judging.asked) == 1


def test_what_cannot_be_compared_costs_no_call_and_says_so() -> None:
    made = panel(Fixed({}))
    assert values(score(made, "a")) == [0.5]
    assert score(made, "a")[0].explanation == "not judged: one answer alone cannot be compared"
    same = score(made, "a", "a", "a")
    assert values(same) == [0.5] * 3
    assert same[0].explanation == "not judged: all 3 answers are the same"
    assert score(made) == []


def test_absolute_judging_judges_one_answer() -> None:
    judging = Fixed({("j", 0): [0.9], ("j", 1): [0.1]}, relative=False)
    made = panel(judging, repeats=2)
    assert made.relative is False
    assert values(score(made, "a", "a")) == [0.5, 0.5]
    assert score(made, "a")[0].agreement is None


def test_looks_are_averaged_and_each_is_another_one() -> None:
    judging = Fixed({("a", 0): [0.2, 0.4], ("b", 2): [0.4, 0.6], ("a", 1): [0.0, 0.2], ("b", 3): [0.6, 0.4]})
    scores = score(panel(judging, "a", "b", repeats=2), "x", "y")
    assert judging.asked == [("a", 0), ("b", 2), ("a", 1), ("b", 3)]
    assert values(scores) == pytest.approx([0.3, 0.4])
    assert {s.agreement for s in scores} == {0.0}  # three pairs of looks agree, three do not
    assert scores[0].explanation == ("a 0.20: a0 on 0; b 0.40: b2 on 0; a 0.00: a1 on 0; b 0.60: b3 on 0")


def test_the_order_in_which_looks_come_back_changes_nothing() -> None:
    looks: Looks = {("a", 0): [0.1, 0.7, 0.3], ("b", 1): [0.3, 0.2, 0.1], ("c", 2): [0.7, 0.1, 0.2]}
    found = []
    for slow in ("a", "b", "c"):
        delays = {key: 0.02 if key[0] == slow else 0.0 for key in looks}
        found.append(score(panel(Fixed(looks, delays=delays), "a", "b", "c"), "x", "y", "z"))
    assert found[0] == found[1] == found[2]


def test_a_look_that_is_not_whole_is_left_out() -> None:
    judging = Fixed({("a", 0): [0.2, 0.4], ("b", 1): [None, 1.0], ("c", 2): [0.4, 0.8]})
    scores = score(panel(judging, "a", "b", "c"), "x", "y")
    assert values(scores) == pytest.approx([0.3, 0.6])
    assert scores[0].agreement == 1.0
    assert scores[1].explanation == ("a 0.40: a0 on 1; c 0.80: c2 on 1; 1 of 3 looks left out (b: no reply)")


def test_without_any_value_all_is_missing() -> None:
    scores = score(panel(Fixed({("a", 0): [None, None], ("b", 1): [None, None]}), "a", "b"), "x", "y")
    assert [(s.value, s.status, s.agreement) for s in scores] == [(None, "missing", None)] * 2
    assert scores[0].explanation == "a: no reply\nb: no reply"


def test_without_a_whole_look_the_fullest_counts_alone() -> None:
    looks: Looks = {("a", 0): [None, 0.9, None], ("b", 1): [0.2, None, 0.4], ("c", 2): [None, 0.7, 0.1]}
    scores = score(panel(Fixed(looks), "a", "b", "c"), "x", "y", "z")
    assert values(scores) == [0.2, None, 0.4]
    assert [s.status for s in scores] == ["scored", "missing", "scored"]
    assert [s.explanation for s in scores] == ["b1 on 0", "b: no reply", "b1 on 2"]


@pytest.mark.parametrize(
    ("second", "asked"),
    [
        ([0.1, 0.9], 2),  # as the first
        ([0.9, 0.1], 4),  # the other way round
        ([0.5, 0.5], 4),  # no difference: agreement 0
        ([None, 0.9], 4),  # no look to compare with
    ],
)
def test_adaptive_takes_the_other_looks_only_where_two_disagree(second: list[Value], asked: int) -> None:
    looks: Looks = {("j", 0): [0.2, 0.8], ("j", 1): second, ("j", 2): [0.3, 0.7], ("j", 3): [0.3, 0.7]}
    judging = Fixed(looks)
    scores = score(panel(judging, repeats=4, adaptive=True), "x", "y")
    assert len(judging.asked) == asked
    if asked == 2:
        assert values(scores) == pytest.approx([0.15, 0.85])
    elif second == [0.9, 0.1]:
        assert values(scores) == pytest.approx([1.7 / 4, 2.3 / 4])


@pytest.mark.parametrize(("agree", "asked"), [(0.3, 2), (0.34, 3)])
def test_the_threshold_of_agreement_is_that_of_the_settings(agree: float, asked: int) -> None:
    looks: Looks = {("j", 0): [0.1, 0.2, 0.3], ("j", 1): [0.2, 0.1, 0.3], ("j", 2): [0.1, 0.2, 0.3]}
    judging = Fixed(looks)  # agreement of the first two: 1/3
    score(panel(judging, repeats=3, adaptive=True, agree=agree), "x", "y", "z")
    assert len(judging.asked) == asked


def test_looks_agree_from_the_threshold_on() -> None:
    judging = Fixed({("j", 0): [0.5, 0.5], ("j", 1): [0.1, 0.9]})  # agreement 0
    score(panel(judging, repeats=3, adaptive=True, agree=0.0), "x", "y")
    assert len(judging.asked) == 2


def test_a_larger_judge_decides_alone_where_looks_disagree() -> None:
    looks = {("a", 0): [0.2, 0.8], ("b", 1): [0.8, 0.2], ("big", 2): [0.6, 0.1]}
    judging = Fixed(looks)
    scores = score(panel(judging, "a", "b", larger=judge("big")), "x", "y")
    assert values(scores) == [0.6, 0.1]
    assert {s.agreement for s in scores} == {-1.0}
    assert scores[0].explanation == "the looks disagree, the larger judge decides: big2 on 0"


def test_a_larger_judge_is_not_asked_where_looks_agree_or_only_one_is_whole() -> None:
    for second in ([0.1, 0.9], [None, 0.2]):
        judging = Fixed({("a", 0): [0.2, 0.8], ("b", 1): second})
        score(panel(judging, "a", "b", larger=judge("big")), "x", "y")
        assert len(judging.asked) == 2


def test_the_mean_stays_where_the_larger_judge_is_missing() -> None:
    judging = Fixed({("a", 0): [0.2, 0.8], ("b", 1): [0.8, 0.2], ("big", 2): [0.6, None]})
    scores = score(panel(judging, "a", "b", larger=judge("big")), "x", "y")
    assert values(scores) == [0.5, 0.5]
    assert scores[0].explanation.endswith("; the looks disagree, and the larger judge is missing (no reply)")


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(1, 2, 3), (1, 2, 3)], 1.0),
        ([(1, 2, 3), (3, 2, 1)], -1.0),
        ([(1, 2, 3), (1, 3, 2)], 1 / 3),
        ([(1, 1, 2), (1, 2, 3)], 2 / 6**0.5),  # tau-b: (2 - 0) / sqrt(2 * 3)
        ([(1, 1, 1), (2, 2, 2)], 1.0),
        ([(1, 1, 1), (1, 2, 3)], 0.0),
        ([(1, 2), (1, 2), (2, 1)], -1 / 3),
    ],
)
def test_agreement_is_the_mean_tau_b(looks: list[tuple[float, ...]], expected: float) -> None:
    assert agreement(looks) == pytest.approx(expected, abs=1e-12)


def test_agreement_needs_two_looks_and_two_answers() -> None:
    assert agreement([(0.1, 0.2)]) is None
    assert agreement([(0.1,), (0.2,)]) is None
    assert agreement([]) is None


@pytest.mark.parametrize("error", [EndpointDown("no answer"), GuardStop("budget", "spent", "raise it")])
def test_what_stops_a_run_goes_through_and_nothing_goes_on(error: Exception) -> None:
    ended: list[str] = []

    @dataclass(frozen=True)
    class Slow(Fixed):
        async def look(self, client: Any, case: Case, *, look: int) -> Verdict:
            if client.model == "bad":
                raise error
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(client.model)
                raise
            raise AssertionError("it was not cancelled")

    async def main() -> int:
        with pytest.raises(type(error)):
            await panel(Slow({}), "a", "bad", "b").score_group(PROMPT, [attempt("x"), attempt("y")])
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert sorted(ended) == ["a", "b"]


def test_all_of_keeps_the_order() -> None:
    ended = [asyncio.Event() for _ in range(4)]
    ended[3].set()

    async def wait(n: int) -> int:
        await asyncio.wait_for(ended[n + 1].wait(), 60)  # the last one ends first
        ended[n].set()
        return n

    assert asyncio.run(all_of(wait(n) for n in range(3))) == [0, 1, 2]


def test_looks_of_a_group_run_at_the_same_time() -> None:
    meet = asyncio.Barrier(4)

    @dataclass(frozen=True)
    class Meeting(Fixed):
        async def look(self, client: Any, case: Case, *, look: int) -> Verdict:
            await asyncio.wait_for(meet.wait(), 60)
            return Verdict(values=(0.1, 0.2), reasons=("", ""))

    assert values(score(panel(Meeting({}), "a", "b", repeats=2), "x", "y")) == [0.1, 0.2]
