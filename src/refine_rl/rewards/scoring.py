"""Scoring beside sampling: one background thread with one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from refine_rl.rewards.base import Reward
from refine_rl.types import Prompt, Score, Trajectory


class ScoringLoop:
    """Scores groups in the background; a context manager.

    Async rewards of all submitted groups overlap. Sync functions share one worker thread, so no two
    of them ever run at the same time. The caller may itself stand in an event loop (a notebook).
    Each group's scores are its own: the order of completion changes nothing. Leaving the block
    cancels what was not finished; after an error it does not wait for a sync function that still runs.

    >>> from refine_rl.rewards.functions import function_reward
    >>> prompt = Prompt(id="p1", split="train", messages=({"role": "user", "content": "Say hi."},))
    >>> answer = Trajectory(prompt_id="p1", member=0, segments=(), stop_reason="stop",
    ...                     messages=(*prompt.messages, {"role": "assistant", "content": "Hi!"}))
    >>> with ScoringLoop(function_reward(lambda completion: len(completion))) as scoring:
    ...     scoring.submit(prompt, [answer]).result()[0].value
    3.0
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._loop = asyncio.new_event_loop()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refine-reward")
        self._loop.set_default_executor(self._worker)
        self._thread = threading.Thread(target=self._loop.run_forever, name="refine-scoring", daemon=True)
        self._open = False

    def __enter__(self) -> ScoringLoop:
        self._thread.start()
        self._open = True
        return self

    def submit(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> Future[list[Score]]:
        """The scores to come of one group, in the order of its trajectories. RuntimeError once closed."""
        if not self._open:
            raise RuntimeError("the scoring loop is closed; use it in a `with` block")
        return asyncio.run_coroutine_threadsafe(
            self._reward.score_group(prompt, tuple(trajectories)), self._loop
        )

    def score(self, groups: Sequence[tuple[Prompt, Sequence[Trajectory]]]) -> list[list[Score]]:
        """The scores of several groups, all submitted at once, in their order."""
        futures = [self.submit(prompt, trajectories) for prompt, trajectories in groups]
        return [future.result() for future in futures]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._open = False
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._worker.shutdown(wait=kind is None, cancel_futures=True)
        self._loop.close()


async def _cancel_all() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
