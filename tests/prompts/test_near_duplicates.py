"""The index of near-duplicates, against comparing everything with everything."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refine_rl.prompts.near_duplicates import NearDuplicates, features, similarity

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=12).map(" ".join)
TEXTS = st.lists(WORDS | st.text(max_size=6), min_size=1, max_size=12)


def slow_features(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold()) or re.findall(r"\S", text)
    size = 3 if len(words) >= 3 else 1
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def slow_find(texts: list[str], added: list[int], index: int, threshold: float) -> tuple[int, float] | None:
    best: tuple[int, float] | None = None
    for other in added:
        a, b = slow_features(texts[index]), slow_features(texts[other])
        value = len(a & b) / len(a | b) if a | b else 1.0
        if value >= threshold and (best is None or value > best[1]):
            best = other, value
    return best


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(TEXTS, st.sampled_from([0.01, 0.1, 0.3, 1 / 3, 0.5, 0.6, 0.7, 0.85, 0.9, 1.0]))
def test_the_index_finds_what_comparing_all_pairs_finds(texts: list[str], threshold: float) -> None:
    near = NearDuplicates(texts, threshold)
    added: list[int] = []
    for index in reversed(range(len(texts))):
        assert near.find(index) == slow_find(texts, added, index, threshold)
        if index % 2:
            near.add(index)
            added.append(index)


def test_the_threshold_itself_counts() -> None:
    long = " ".join(f"w{i}" for i in range(27))  # 25 trigrams
    short = " ".join(f"w{i}" for i in range(16))  # 14 of them; 0.56 * 25 is 14.000000000000002
    near = NearDuplicates([long, short], 0.56)
    near.add(1)
    assert near.find(0) == (1, 0.56)


def test_similarity_by_hand() -> None:
    # say hi to | hi to ann     against     say hi to | hi to bob
    assert similarity(features("Say hi to Ann."), features("say HI, to Bob!")) == 1 / 3
    assert similarity(features("Hello there"), features("there: hello")) == 1.0
    assert similarity(features("Hello there"), features("Hello you")) == 1 / 3
    assert similarity(features("Hello there"), features("Hello there you")) == 0.0
    assert similarity(features("+ +"), features("+ -")) == 0.5
    assert similarity(features(""), features(" ")) == 1.0
