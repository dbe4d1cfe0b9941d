"""More groups are sampled than scored: which ones, what is told of them, and what a resumed run knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from make import attempts, prompt
from refine_rl.settings import Settings
from refine_rl.training.grpo.collect import Collector
from refine_rl.training.grpo.pool import Chosen
from refine_rl.training.grpo.selection import Selection, chosen, diversities, diversity
from refine_rl.training.grpo.setup import choice_of
from refine_rl.types import Group, Prompt, Score, Trajectory

PROMPTS = [prompt(n, facets={"size": "even" if n % 2 == 0 else "odd"}) for n in range(6)]
SAID = {
    "p0": ("a", "a"),
    "p1": ("a b", "c d"),
    "p2": ("a b", "a b"),
    "p3": ("a b", "a c"),
    "p4": ("x", "y"),
    "p5": ("", ""),
}


def plain(texts: Sequence[str]) -> float:
    """The twin, by lists."""
    total = 0.0
    for i in range(len(texts)):
        for j in range(i):
            a, b = (
                {*w, *[(w[k], w[k + 1]) for k in range(len(w) - 1)]}
                for w in (texts[i].lower().split(), texts[j].lower().split())
            )
            both, either = [x for x in a if x in b], [*a, *[x for x in b if x not in a]]
            total += 0.0 if not either else 1 - len(both) / len(either)
    return len(dict.fromkeys(texts)) + 0.001 * total


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (("a", "b"), 2.001),
        (("a", "A"), 2.0),  # two texts of the same words
        (("a b", "a c", "a b"), 2 + 0.001 * 2 * (1 - 1 / 5)),
        (("", ""), 1.0),
        (("", "a"), 2.001),
        (("the cat sat", "the dog sat", "a bird"), 3 + 0.001 * (1 - 2 / 8 + 2)),
    ],
)
def test_diversity(texts: tuple[str, ...], value: float) -> None:
    assert diversity(texts) == pytest.approx(value, abs=1e-12)
    assert diversity(texts) == pytest.approx(plain(texts), abs=1e-12)


def of_kinds(kinds: Sequence[str], more: Sequence[str] = ()) -> list[Prompt]:
    """A prompt a kind; with a second facet where `more` says it."""
    facets = [{"kind": kind} for kind in kinds]
    if more:
        facets = [{**f, "tone": tone} for f, tone in zip(facets, more, strict=True)]
    return [prompt(n, facets=f) for n, f in enumerate(facets)]


def test_the_first_of_equals_and_none_of_one_text() -> None:
    plain = [prompt(n, facets={}) for n in range(4)]
    assert chosen([2.0, 2.0, 2.0], plain[:3], 2) == [0, 1]
    assert chosen([1.0, 2.0, 1.0, 9.0], plain, 3) == [1, 3]
    assert chosen([1.0, 1.0, 1.0], plain[:3], 2) == [0]


@pytest.mark.parametrize(
    ("kinds", "diversities", "count", "places"),
    [
        ("aabb", [9, 8, 3, 2], 2, [0, 2]),  # half of two each
        ("aaab", [9, 8, 7, 2], 2, [0, 1]),  # ceil(1.5) = 2 and ceil(0.5) = 1: the most diverse first
        ("aaabbb", [9, 8, 7, 4, 3, 2], 3, [0, 1, 3]),  # ceil(1.5) each
        ("aabb", [9, 8, 1, 1], 2, [0, 1]),  # nothing of b can be scored: its share is a's
        ("abcd", [2, 3, 4, 5], 2, [2, 3]),  # a value that only one has holds nobody up
    ],
)
def test_each_kind_has_its_share(kinds: str, diversities: list[float], count: int, places: list[int]) -> None:
    assert chosen(diversities, of_kinds(kinds), count) == places


def test_the_share_of_each_of_two_facets() -> None:
    # 0: a x, 1: a y, 2: b x, 3: b y; of two each value gets one
    assert chosen([9.0, 8.0, 7.0, 2.0], of_kinds("aabb", "xyxy"), 2) == [0, 3]


class Record:
    """Keeps what it is told."""

    def __init__(self, known: dict[int, list[Group]] | None = None) -> None:
        self.known = known or {}
        self.selections: dict[int, Selection] = {}
        self.made: list[Group] = []

    def recorded(self, step: int) -> list[Group] | None:
        return self.known.get(step)

    def seen(self) -> list[Any]:
        return []

    def pool(self, step: int, chosen: Chosen) -> None: ...

    def selected(self, step: int, selection: Selection) -> None:
        self.selections[step] = selection

    def selection(self, step: int) -> Selection | None:
        return self.selections.get(step)

    def groups(self, groups: Sequence[Group]) -> None:
        self.made += groups


def collector(record: Record, told: list[str], **more: Any) -> Collector:
    s = Settings.model_validate({"task": "x", "grpo": {"prompts_per_step": 3, "oversample": 2.0, **more}})

    def play(some: Sequence[Prompt], step: int) -> Iterable[tuple[int, tuple[Trajectory, ...]]]:
        for place in reversed(range(len(some))):
            told.append(f"sampled {some[place].id}")
            yield place, attempts(some[place], *SAID[some[place].id])

    def score(of: Prompt, group: tuple[Trajectory, ...]) -> Future[list[Score]]:
        told.append(f"scored {of.id}")
        future: Future[list[Score]] = Future()
        future.set_result([Score(value=float(t.member)) for t in group])
        return future

    return Collector(
        steps=1,
        choice=choice_of(s, PROMPTS, None),
        record=record,  # type: ignore[arg-type]
        play=play,
        score=score,
        compare=lambda some, step: pytest.fail("nothing is ahead"),
        scored=3,
    )


def test_all_are_sampled_and_the_most_diverse_are_scored() -> None:
    record, told = Record(), list[str]()
    collected = collector(record, told)(1)
    scored = [g.prompt.id for g in collected.groups]
    order = [p.id for p in record.selections[1].prompts]
    assert sorted(order) == sorted(SAID)
    assert told[:6] == [f"sampled {name}" for name in reversed(order)]
    assert scored == [name for name in order if name in ("p1", "p3", "p4")]  # of one text: p0, p2, p5
    assert told[6:] == [f"scored {name}" for name in scored]
    assert record.selections[1].diversity == diversities([attempts("p", *SAID[name]) for name in order])
    assert collected.told == {
        "groups_sampled": 6,
        "groups_alike": 3,
        "facets_sampled": {"size = even": 3, "size = odd": 3},
        "facets_scored": {"size = even": 1, "size = odd": 2},
    }


def test_a_step_on_record_tells_the_same_and_nothing_is_chosen_again() -> None:
    first, told = Record(), list[str]()
    collected = collector(first, told)(1)
    again = Record({1: first.made})
    again.selections = first.selections
    told.clear()
    assert collector(again, told)(1).told == collected.told
    assert told == []


def test_fewer_are_sampled_where_there_are_fewer_prompts() -> None:
    record = Record()
    collector(record, [], oversample=1.4)(1)
    assert len(record.selections[1].prompts) == 5
    s = Settings.model_validate({"task": "x", "grpo": {"prompts_per_step": 4, "oversample": 3.0}})
    assert choice_of(s, PROMPTS, None).per_step == 6
