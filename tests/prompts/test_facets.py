"""Facets as the writer names them, and the combinations that cover them."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_rl.errors import MachineError
from refine_rl.llm.scripted import Scripted
from refine_rl.llm.structured import Unusable
from refine_rl.prompts.facets import Covering, read_facets, whole_combinations
from refine_rl.prompts.slots import plan_slots
from refine_rl.prompts.writer import Writer
from refine_rl.settings import PromptSettings, WriterSettings

SIZES = st.lists(st.integers(2, 6), min_size=1, max_size=5)


def facets(*sizes: int) -> dict[str, list[str]]:
    return {f"f{n}": [f"v{n}{i}" for i in range(size)] for n, size in enumerate(sizes)}


def chosen(sizes: list[int], count: int, seed: int = 0) -> list[tuple[str, ...]]:
    covering = Covering(facets(*sizes), seed)
    return [covering.choose() for _ in range(count)]


def three(**changes: Any) -> dict[str, Any]:
    named = [{"name": n, "values": ["a", "b"]} for n in ("x", "y", "z")]
    named[0] |= changes
    return {"facets": named}


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 5))
def test_every_value_is_used_as_soon_as_it_can_be(sizes: list[int], seed: int) -> None:
    rows = chosen(sizes, max(sizes), seed)
    assert [len({row[n] for row in rows}) for n in range(len(sizes))] == sizes


def test_pairs_are_spread_evenly() -> None:
    sizes = [4, 3, 3, 2]
    rows = chosen(sizes, 48)
    for a, b in combinations(range(4), 2):
        counts = Counter((row[a], row[b]) for row in rows)
        share = 48 / (sizes[a] * sizes[b])
        assert len(counts) == sizes[a] * sizes[b]
        assert all(abs(count - share) <= max(1, share / 3) for count in counts.values()), counts


def test_all_pairs_of_a_large_space_are_met_in_few_rows() -> None:
    rows = chosen([4] * 6, 40)  # 4096 combinations; no covering of their pairs has fewer than 16
    met = {((a, row[a]), (b, row[b])) for row in rows for a, b in combinations(range(6), 2)}
    assert len(met) == 15 * 16


def test_all_combinations_of_a_small_space_come_before_any_comes_again() -> None:
    assert set(chosen([3, 3], 9)) == set(product(("v00", "v01", "v02"), ("v10", "v11", "v12")))
    assert sorted(Counter(chosen([2, 2], 8)).values()) == [2, 2, 2, 2]
    assert set(Counter(chosen([2, 2, 2, 2], 16)).values()) == {1}


def test_the_choice_is_that_of_the_seed_alone() -> None:
    assert chosen([4, 3, 3], 20, seed=1) == chosen([4, 3, 3], 20, seed=1)
    assert chosen([4, 3, 3], 20, seed=1)[:7] == chosen([4, 3, 3], 7, seed=1)
    assert chosen([4, 3, 3], 20, seed=1) != chosen([4, 3, 3], 20, seed=2)


def test_what_is_set_apart_is_not_chosen_until_nothing_else_is_left() -> None:
    apart = frozenset({("v00", "v10"), ("v01", "v11")})
    covering = Covering(facets(2, 2), 0)
    rows = {covering.choose(besides=apart) for _ in range(6)}
    assert rows == {("v00", "v11"), ("v01", "v10")}
    for only in product(*facets(3, 3, 3).values()):
        others = frozenset(product(*facets(3, 3, 3).values())) - {only}
        assert Covering(facets(3, 3, 3), 0).choose(besides=others) == only
    everything = frozenset(product(("v00", "v01"), ("v10", "v11")))
    assert covering.choose(besides=everything) in everything


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(1, 20))
def test_training_keeps_half_of_every_value(sizes: list[int], count: int) -> None:
    whole = whole_combinations(facets(*sizes), count, 0)
    assert len(whole) == len(set(whole)) <= count
    every = 1
    for size in sizes:
        every *= size
    for n, size in enumerate(sizes):
        for uses in Counter(row[n] for row in whole).values():
            assert 2 * uses <= every // size
    if len(sizes) == 1:
        assert whole == []


def test_slots() -> None:
    asked = {"train": 20, "validation": 5, "held_out": 11}
    slots = plan_slots(facets(3, 3, 2), asked, 0)
    assert Counter(s.split for s in slots) == asked
    assert [s.split for s in slots[:20]] != ["train"] * 20
    known = {s.combination for s in slots if s.split != "held_out"}
    trained = {s.combination for s in slots if s.split == "train"}
    unseen = [s for s in slots if s.whole]
    seen = [s for s in slots if s.split == "held_out" and not s.whole]
    assert (len(unseen), len(seen)) == (5, 6)
    assert not known & {s.combination for s in unseen}
    assert {s.combination for s in seen} <= trained
    assert len({s.combination for s in seen}) == 6
    assert slots == plan_slots(facets(3, 3, 2), asked, 0) != plan_slots(facets(3, 3, 2), asked, 1)


def test_with_one_facet_nothing_is_held_out_whole() -> None:
    slots = plan_slots(facets(3), {"train": 6, "validation": 0, "held_out": 4}, 0)
    assert [s.whole for s in slots] == [False] * 10


def test_facets_are_read_with_their_white_space_put_right() -> None:
    assert read_facets(three(name=" main\n topic ", values=["a  b", " c"])) == {
        "main topic": ("a b", "c"),
        "y": ("a", "b"),
        "z": ("a", "b"),
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], 'There is no list "facets" in the reply.'),
        ({"facets": "topic"}, 'There is no list "facets"'),
        ({"facets": three()["facets"][:2]}, "There are 2 facets; give 3 to 6."),
        ({"facets": three()["facets"] * 3}, "There are 9 facets; give 3 to 6. Facet 'x' is there twice."),
        ({"facets": ["x", *three()["facets"]]}, 'Facet 1 needs a "name" and a list "values" of texts.'),
        (three(name=""), 'Facet 1 needs a "name"'),
        (three(values="a, b"), 'Facet 1 needs a "name" and a list "values"'),
        (three(values=["a"]), "Facet 'x' has 1 values; give 2 to 8."),
        (three(values=list("abcdefghi")), "Facet 'x' has 9 values; give 2 to 8."),
        (three(values=["a", "A"]), "Facet 'x' has the same value twice."),
        (three(values=["a", ""]), "Facet 'x' has a value that is empty"),
        (three(values=["a", 3]), "Facet 'x' has a value that is empty, no text"),
        (three(values=["a", "b" * 81]), "Facet 'x' has a value that is empty, no text or too long"),
        (three(name="Y"), "Facet 'y' is there twice."),
    ],
)
def test_facets_that_cannot_be_used(value: Any, words: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_facets(value)
    assert words in str(caught.value)


def test_the_writer_is_told_what_was_wrong_with_its_facets() -> None:
    good = '{"facets": [{"name": "x", "values": ["a", "b"]}, {"name": "y", "values": ["a", "b"]}, '
    client = Scripted([good + "]}", good + '{"name": "z", "values": ["a", "b"]}]}'])
    task = "Say {{task}} and {this}."

    def name(client: Scripted) -> Any:
        writer = WriterSettings(temperature=0.7)
        return asyncio.run(
            Writer(client, task=task, prompts=PromptSettings(), writer=writer, seed=3).facets()
        )

    found = name(client)
    assert found == dict.fromkeys("xyz", ("a", "b"))
    first, second = client.requests
    assert "<task>\nSay {{task}} and {this}.\n</task>" in first.messages[0]["content"]
    assert (first.purpose, first.about, first.variation, first.temperature) == (
        "writer",
        "facets",
        "3/facets",
        0.7,
    )
    assert "There are 2 facets; give 3 to 6." in second.messages[-1]["content"]
    with pytest.raises(MachineError, match=r"There are 0 facets"):
        name(Scripted(lambda request: '{"facets": []}'))
