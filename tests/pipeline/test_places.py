"""A reward that goes with an answer's place among the others gives itself away; no other reward does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

import make
from refine_rl.pipeline.places import look_at_places
from refine_rl.types import Outcome, Score

Values = Callable[[Sequence[str]], Sequence[float]]
PROMPT = make.prompt("p1", "Say something.")


def told(values: Values, *answers: str, asks: bool = False) -> list[str]:
    """What is said of a reward that gives answers these values."""

    class Scorer:
        calls = 0

        async def score_group(self, prompt: Any, trajectories: Any) -> list[Score]:
            Scorer.calls += 1
            return [Score(value=v) for v in values([t.completion for t in trajectories])]

    tried = make.attempts(PROMPT, *answers)
    scorer, said = Scorer(), []
    first = asyncio.run(scorer.score_group(PROMPT, tried))
    work = SimpleNamespace(
        settings=SimpleNamespace(reward=SimpleNamespace(asks=asks)),
        scorers=SimpleNamespace(validation=scorer),
        waited_for=asyncio.run,
        journal=SimpleNamespace(warning=lambda name, text, step: said.append(f"{name} {step}: {text}")),
    )
    pairs = tuple(zip(tried, first, strict=True))
    look_at_places(work, [Outcome(prompt=PROMPT, sampled=pairs, greedy=pairs[0])])  # type: ignore[arg-type]
    assert Scorer.calls <= 3
    return said


def by_length(texts: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in texts]


@pytest.mark.parametrize(
    "order",
    [
        lambda found: [*found[1:], *found[:1]],
        lambda found: [*found[-1:], *found[:-1]],
        lambda found: found[::-1],
        sorted,
        lambda found: [float(n) for n in range(len(found))],
    ],
)
def test_scores_in_another_order_are_seen(order: Callable[[list[float]], list[float]]) -> None:
    said = told(lambda texts: order(by_length(texts)), "a", "bbb", "bb", "a")
    assert len(said) == 1
    assert said[0].startswith("reward_by_place 0: Rewards go with the places of answers: of those to p1, “")


def test_other_rewards_are_left_in_peace() -> None:
    assert told(by_length, "a", "bbb", "bb", "a") == []
    # The first of several equal texts may have more: which of them it is, is all the same.
    first = told(
        lambda texts: [float(t not in texts[:n]) + len(t) for n, t in enumerate(texts)], "a", "a", "b"
    )
    assert first == []
    # One that is not the same twice says nothing; nor do two answers, equal rewards, or LLMs.
    chance = iter(range(100))
    assert told(lambda texts: [float(next(chance)) for _ in texts], "a", "b", "c") == []
    assert told(lambda texts: by_length(texts)[::-1], "a", "bb") == []
    assert told(lambda texts: [0.0, 0.0, 1.0], "a", "b", "b") == []
    assert told(lambda texts: by_length(texts)[::-1], "aa", "bb", "cc") == []
    assert told(lambda texts: by_length(texts)[::-1], "a", "bb", "ccc", asks=True) == []
