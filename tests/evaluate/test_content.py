"""What answers say of their prompts, and the collapse in which they stop saying it."""

from __future__ import annotations

import random

import pytest

from make import comparison, contrast, prompt, score, trajectory
from refine_rl.evaluate.content import content, content_loss, follows
from refine_rl.evaluate.verdict import cautions, lost_content, said_with, unexpected
from refine_rl.types import Content, Prompt, Score, Trajectory

LONG = Content(tokens=40.0, kept=0.3, by_length=0.9)
SHORT = Content(tokens=8.0, kept=0.06, by_length=0.7)


def answers(of: Prompt, *said: tuple[str, float | None]) -> tuple[Prompt, list[tuple[Trajectory, Score]]]:
    """Answers to a prompt with their rewards; a token a character."""
    pairs = [
        (trajectory(of, text, member=m, tokens=len(text)), score(value))
        for m, (text, value) in enumerate(said)
    ]
    return of, pairs


def test_the_share_of_content_words_is_of_the_prompts_own() -> None:
    """Forms of a word are one, stop words are none, and a prompt without content words has no share."""
    found = content(
        [
            answers(prompt(1, "My dog ate the fish."), ("Dogs eat fishes.", 1.0), ("The dog.", 1.0)),
            answers(prompt(2, "Was it there?"), ("A dog", 0.0), ("", 0.0)),
        ]
    )
    assert found.kept == pytest.approx((1 + 1 / 3) / 2)
    assert found.tokens == (16 + 8 + 5 + 0) / 4
    assert found.by_length is None  # of four answers nothing can be told
    assert content([answers(prompt(1, "Was it?"), ("No.", 0.0))]).kept is None


def test_a_reward_of_length_alone_is_seen_in_whatever_it_counts() -> None:
    """Characters, words and tokens are tried; missing scores are left out."""
    texts = ["a" * n for n in (1, 3, 4, 9, 13, 17, 22, 26, 30, 33, 38, 41)]
    nearest = [(t, -abs(20.0 - len(t))) for t in texts]
    told = content([answers(prompt(1), *nearest, ("b" * 50, None))]).by_length
    # In the order of length the ranks by nearness are 2 4 5 7 9 11 12 10 8 6 3 1, which are 21 apart:
    # xi = 1 - 3 * 21 / (12^2 - 1) = 80 / 143, of at most (12 - 2) / (12 + 1).
    assert told == pytest.approx(80 / 143 / (10 / 13))
    by_words = [("ab " * n, float(n % 3)) for n in range(1, 40)]
    spoilt = [(t + "x" * random.Random(t).randint(0, 60), v) for t, v in by_words]
    assert (content([answers(prompt(1), *spoilt)]).by_length or 0) > 0


def test_a_function_follows_and_noise_does_not() -> None:
    numbers = random.Random(0)
    sizes = [numbers.randint(1, 60) for _ in range(400)]
    assert (follows(sizes, [-abs(20.0 - s) for s in sizes]) or 0) > 0.95
    assert (follows(sizes, [float(s < 30) for s in sizes]) or 0) > 0.95
    noise = follows(sizes, [numbers.random() for _ in sizes])
    assert noise is not None
    assert noise < 0.1


def test_answers_of_one_size_do_not_follow() -> None:
    """Right and wrong digits, say: within one size the order is the worst there is, not that of values."""
    right = [float(n % 2) for n in range(40)]
    for values in (right, sorted(right)):
        found = follows([1] * 40, values)
        assert found is not None
        assert found < -0.5
    assert follows(range(12), [0.5] * 12) is None
    assert follows(range(11), range(11)) is None


def test_a_collapse_is_named_with_its_numbers() -> None:
    text = content_loss(LONG, SHORT, (-40.0, -2.0))
    assert text.startswith(
        "Answers fell from 40 to 8 tokens and from 30 % to 6 % of the prompt's content words, while the "
        "reward rose from -40.000 to -2.000. Length alone decides this reward."
    )


@pytest.mark.parametrize(
    ("before", "after", "reward"),
    [
        (LONG, SHORT, (0.5, 0.5)),  # nothing was won by it
        (LONG, Content(tokens=25.0, kept=0.06), (0.0, 1.0)),  # not much shorter
        (LONG, Content(tokens=8.0, kept=0.2), (0.0, 1.0)),  # brief, and says it
        (
            Content(tokens=40.0, kept=0.3, by_length=0.4),
            Content(tokens=8.0, kept=0.06),
            (0.0, 1.0),
        ),  # a judge
        (Content(tokens=40.0, kept=0.3), Content(tokens=8.0, kept=0.06), (0.0, 1.0)),  # not known
        (Content(tokens=40.0, kept=0.01, by_length=1.0), SHORT, (0.0, 1.0)),  # it never had any
        (Content(tokens=40.0, kept=None, by_length=1.0), SHORT, (0.0, 1.0)),
        (LONG, Content(tokens=8.0, kept=None), (0.0, 1.0)),
    ],
)
def test_what_is_no_collapse(before: Content, after: Content, reward: tuple[float, float]) -> None:
    assert content_loss(before, after, reward) == ""


def test_the_verdict_is_told_with_it() -> None:
    found = comparison("better", contrast(-40.0, -2.0), content={"base": LONG, "tuned": SHORT})
    assert lost_content(found) == content_loss(LONG, SHORT, (-40.0, -2.0))
    assert cautions(found)["content_loss"] == unexpected(found)["content_loss"] == lost_content(found)
    assert lost_content(found) in said_with(found)
    unsure = comparison("not better", contrast(-40.0, -39.99), content={"base": LONG, "tuned": SHORT})
    assert lost_content(unsure) == ""
    assert lost_content(comparison("better", contrast(-40.0, -2.0))) == ""  # of an older run
