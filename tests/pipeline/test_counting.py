"""How far a step's groups are."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

import make
from refine_rl.errors import Interrupted
from refine_rl.pipeline.counting import Promised, sampled
from refine_rl.types import Prompt, Score


def test_groups_are_counted_as_they_come() -> None:
    told: list[tuple[int, int]] = []
    groups = [(0, make.attempts("p0", "a")), (1, make.attempts("p1", "b"))]
    coming = sampled(groups, 2, lambda done, of: told.append((done, of)))
    assert next(coming) == groups[0]
    assert told == [(1, 2)]
    assert list(coming) == groups[1:]
    assert told == [(1, 2), (2, 2)]


def test_scores_are_counted_while_they_are_waited_for() -> None:
    told: list[tuple[int, int]] = []
    futures: list[Future[list[Score]]] = []

    def start(prompt: Prompt, group: object) -> Future[list[Score]]:
        futures.append(Future())
        return futures[-1]

    stopped = False

    def pause() -> None:
        if stopped:
            raise Interrupted

    promised = Promised(start, lambda done, of: told.append((done, of)), pause)
    for name in "abc":
        assert promised.start(make.prompt(name), make.attempts(name, "x")) is futures[-1]
    promised.pause()
    futures[1].set_result([])
    promised.pause()
    for future in (futures[0], futures[2]):
        future.set_result([])
    promised.pause()
    promised.start(make.prompt("d"), make.attempts("d", "x"))  # of the next step
    promised.pause()
    assert told == [(0, 3), (1, 3), (3, 3), (0, 1)]
    stopped = True
    with pytest.raises(Interrupted):
        promised.pause()
