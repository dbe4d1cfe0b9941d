"""How many answers belong to one prompt alone, against the plain count of pairs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from refine_rl.evaluate.variety import variety
from refine_rl.types import Variety

ANSWERS = st.lists(
    st.tuples(st.sampled_from("pqr"), st.lists(st.sampled_from(["a", "A ", "b", "c d", "", "e f g h i"]))),
    max_size=6,
)


@given(ANSWERS)
def test_the_share_is_that_of_a_plain_count(answers: list[tuple[str, list[str]]]) -> None:
    every = [(prompt, " ".join(text.lower().split())) for prompt, group in answers for text in group]
    found = variety(answers)
    if len({prompt for prompt, _ in answers}) < 2 or not every:
        assert found == Variety(distinct_share=None)
        return
    alone = [all(p == q for q, other in every if other == text) for p, text in every]
    assert found.distinct_share == sum(alone) / len(every)


def test_one_answer_for_every_prompt_is_zero_and_answers_within_a_group_may_repeat() -> None:
    assert variety([("p", ["same"] * 4), ("q", ["same"] * 4)]).distinct_share == 0.0
    assert variety([("p", ["yes"] * 4), ("q", ["no"] * 4)]).distinct_share == 1.0
    assert variety([("p", ["yes"] * 4)]).distinct_share is None


def test_openings_are_those_that_several_prompts_share() -> None:
    answers = [
        ("p", ["Arr, me hearties, the ship sails", "one two three four five", "alone here by myself"]),
        ("q", ["arr, me hearties, the ship is gone", "One two three four six", "ARR, me  hearties, the end"]),
        ("r", ["one two three four", "x" * 90, "only in this prompt twice"]),
        ("r", ["only in this prompt once"]),
        ("s", ["x" * 99]),
    ]
    found = variety(answers)
    assert found.openings == {
        "Arr, me hearties, the": 3 / 11,
        "one two three four": 3 / 11,
        "x" * 48: 2 / 11,
    }
    assert found.distinct_share == 1.0
