"""Scoring beside sampling: one background thread with one event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from refine_rl.foreign.workers import WORKERS, Workers
from refine_rl.progress import Pause, never, wait
from refine_rl.rewards.base import Reward, Scorer
from refine_rl.types import Prompt, Score, Trajectory

T = TypeVar("T")


class ScoringLoop:
    """Scores groups in the background, by any rewards; a context manager.

    Async rewards of all groups that were started overlap. Sync functions share one worker thread, so no two
    of them ever run at the same time (foreign/workers.py). The caller may itself stand in an event loop (a
    notebook). Each group's scores are its own: the order of completion changes nothing. Leaving the block
    cancels what was not finished, and awaits `closing` in the loop (connections that were opened there);
    after an error it does not wait for a sync function that still runs.

    >>> from refine_rl.rewards.functions.own import function_reward
    >>> prompt = Prompt(id="p1", split="train", messages=({"role": "user", "content": "Say hi."},))
    >>> answer = Trajectory(prompt_id="p1", member=0, segments=(), stop_reason="stop",
    ...                     messages=(*prompt.messages, {"role": "assistant", "content": "Hi!"}))
    >>> reward = function_reward(lambda completion: len(completion))
    >>> with ScoringLoop() as loop:
    ...     loop.start(reward.score_group(prompt, [answer])).result()[0].value
    3.0
    """

    def __init__(self, *, closing: Callable[[], Awaitable[None]] | None = None) -> None:
        self._closing = closing
        self._loop = asyncio.new_event_loop()
        self._workers = Workers()
        # The loop looks up addresses in threads of its own: a judge does not wait for a slow function.
        self._others = ThreadPoolExecutor(max_workers=4, thread_name_prefix="refine-loop")
        self._loop.set_default_executor(self._others)
        self._thread = threading.Thread(target=self._loop.run_forever, name="refine-scoring", daemon=True)
        self._open = False

    def __enter__(self) -> ScoringLoop:
        self._workers.__enter__()
        self._thread.start()
        self._open = True
        return self

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """What comes of `work`, which goes on in the loop. RuntimeError once closed."""
        if not self._open:
            work.close()
            raise RuntimeError("the scoring loop is closed; use it in a `with` block")
        context = contextvars.copy_context()
        context.run(WORKERS.set, self._workers)
        return context.run(asyncio.run_coroutine_threadsafe, work, self._loop)

    def score(
        self, reward: Reward, groups: Sequence[tuple[Prompt, Sequence[Trajectory]]], pause: Pause = never
    ) -> list[list[Score]]:
        """The scores of several groups, all begun at once, in their order. `pause` is called while they are
        not there."""
        futures = [self.start(reward.score_group(prompt, tuple(group))) for prompt, group in groups]
        return [wait(future, pause) for future in futures]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._open = False
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._workers.__exit__(kind, error, where)
        self._others.shutdown(wait=kind is None, cancel_futures=True)
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        if self._closing is not None:
            await self._closing()


@dataclass(frozen=True, slots=True)
class Promising:
    """A scorer at work in a loop: training begins a group's scores, and takes them when they are there."""

    scorer: Scorer
    loop: ScoringLoop

    def start(self, prompt: Prompt, group: Sequence[Trajectory]) -> Future[list[Score]]:
        """The scores to come, one a trajectory, in the same order. RuntimeError once the loop is closed."""
        return self.loop.start(self.scorer.score_group(prompt, tuple(group)))
