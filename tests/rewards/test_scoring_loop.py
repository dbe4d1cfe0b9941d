"""The background loop: overlap, order, one sync function at a time, a clean end."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from make import attempts, prompt
from refine_rl.errors import Interrupted
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.functions.own import function_reward
from refine_rl.rewards.scoring import Promising, ScoringLoop
from refine_rl.settings import Settings
from refine_rl.types import Prompt, Score, Trajectory


def group(number: int) -> tuple[Prompt, tuple[Trajectory, ...]]:
    asked = prompt(number, str(number))
    return asked, attempts(asked, "0", "1")


BEFORE: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _before() -> None:
    """What another test left behind may end as late as it likes."""
    BEFORE.clear()
    BEFORE.update(threading.enumerate())


def threads() -> set[str]:
    return {t.name for t in set(threading.enumerate()) - BEFORE if t.name.startswith("refine-")}


def all_end() -> bool:
    """After an error they are told to end, and waited for no longer than a second."""
    end = time.monotonic() + 60
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not threads()


def run(function: Any, groups: int = 4) -> list[list[float | None]]:
    with ScoringLoop() as loop:
        found = loop.score(function_reward(function), [group(i) for i in range(groups)])
    assert threads() == set()
    return [[score.value for score in scores] for scores in found]


def begin(
    loop: ScoringLoop, function: Any, prompt: Prompt, trajectories: list[Trajectory]
) -> Future[list[Score]]:
    return loop.start(function_reward(function).score_group(prompt, trajectories))


def last_first(groups: int) -> Any:
    """A reward of groups that end in the order 3, 2, 1, 0."""
    ended = [asyncio.Event() for _ in range(groups)]

    async def waits(prompt: str, completion: str) -> float:
        number = int(prompt)
        if number + 1 < groups:
            await asyncio.wait_for(ended[number + 1].wait(), 60)
        ended[number].set()
        return 10 * number + int(completion)

    return waits


def test_scores_keep_their_places_whatever_ends_first() -> None:
    assert run(last_first(4)) == [[0, 1], [10, 11], [20, 21], [30, 31]]


def test_async_functions_of_all_groups_overlap() -> None:
    waiting = 0

    async def meet(completion: str) -> float:
        nonlocal waiting
        waiting += 1
        while waiting < 8:
            await asyncio.sleep(0)
        return 1.0

    with ScoringLoop() as loop:
        futures = [begin(loop, meet, *group(i)) for i in range(4)]
        assert [[s.value for s in f.result(timeout=60)] for f in futures] == [[1.0, 1.0]] * 4


def test_sync_functions_run_one_at_a_time_and_leave_async_ones_free() -> None:
    running, most = 0, 0
    free = threading.Event()

    def slow(completion: str) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert free.wait(timeout=60)
        running -= 1
        return 1.0

    async def quick(completion: str) -> float:
        free.set()
        return 2.0

    class Both:
        name = "both"

        def check_prompt(self, prompt: Prompt) -> None: ...

        async def score_group(self, prompt: Prompt, trajectories: Any) -> Any:
            parts = [function_reward(f).score_group(prompt, trajectories) for f in (slow, quick)]
            return (await asyncio.gather(*parts))[0]

    with ScoringLoop() as loop:
        found = loop.score(Both(), [group(0), group(1)])
    assert [[s.value for s in scores] for scores in found] == [[1.0, 1.0]] * 2
    assert most == 1


def test_a_sync_function_does_not_keep_addresses_from_being_looked_up() -> None:
    """A judge's name is looked up in a thread of the loop."""
    started, free = threading.Event(), threading.Event()

    def stuck(completion: str) -> float:
        started.set()
        free.wait(timeout=60)
        return 1.0

    async def look_up() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    with ScoringLoop() as loop:
        begin(loop, stuck, *group(0))
        assert started.wait(timeout=60)
        assert loop.start(look_up()).result(timeout=60)
        assert not free.is_set()
        free.set()
    assert threads() == set()


def test_it_works_inside_a_running_event_loop() -> None:
    async def notebook() -> list[list[float | None]]:
        return run(last_first(2), groups=2)

    assert asyncio.run(notebook()) == [[0, 1], [10, 11]]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_cancels_what_waits(error: type[BaseException]) -> None:
    async def never(completion: str) -> float:
        await asyncio.Event().wait()
        return 1.0

    futures = []

    def leave() -> None:
        with ScoringLoop() as loop:
            futures.append(begin(loop, never, *group(0)))
            raise error

    with pytest.raises(error):
        leave()
    with pytest.raises(CancelledError):
        futures[0].result(timeout=60)
    assert all_end()


def test_scores_that_do_not_come_can_be_interrupted() -> None:
    async def hangs(completion: str) -> float:
        await asyncio.Event().wait()
        return 1.0

    def stop() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted), ScoringLoop() as loop:
        loop.score(function_reward(hangs), [group(0)], stop)
    assert all_end()


def test_an_error_in_the_block_does_not_wait_for_a_sync_function() -> None:
    started, free = threading.Event(), threading.Event()

    def stuck(completion: str) -> float:
        started.set()
        came_back.append(free.wait(timeout=60))
        return 1.0

    def leave() -> None:
        with ScoringLoop() as loop:
            begin(loop, stuck, *group(0))
            assert started.wait(timeout=60)
            raise KeyboardInterrupt

    came_back: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert came_back == []
    free.set()


def test_a_reward_that_exits_does_not_end_the_loop() -> None:
    def leave(completion: str) -> float:
        raise SystemExit

    assert run(leave, groups=2) == [[None, None], [None, None]]


def test_a_closed_loop_says_so() -> None:
    with ScoringLoop() as loop:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        begin(loop, last_first(1), *group(0))


def test_one_loop_scores_by_any_reward() -> None:
    with ScoringLoop() as loop:
        ones, twos = (begin(loop, lambda completion, n=n: n, *group(0)) for n in (1.0, 2.0))
        assert [s.value for future in (ones, twos) for s in future.result(timeout=60)] == [1, 1, 2, 2]


def test_training_is_handed_a_scorer_at_work() -> None:
    settings = Settings.model_validate(
        {"task": "t", "reward": {"rules": [{"rule": "words", "max": 1, "weight": 0.5}]}}
    )
    with ScoringLoop() as loop:
        at_work = Promising(build_reward(settings), loop)
        future = at_work.start(*group(0))
        assert [score.value for score in future.result(timeout=60)] == [0.5, 0.5]
    with pytest.raises(RuntimeError, match="closed"):
        at_work.start(*group(0))
