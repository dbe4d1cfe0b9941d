"""How far the groups of a step are, told while they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from refine_rl.envs.base import Members
from refine_rl.policy.protocol import Spoken
from refine_rl.progress import Counted, Pause
from refine_rl.types import Prompt, Score


def sampled(groups: Iterable[Spoken], of: int, counted: Counted) -> Iterator[Spoken]:
    """The groups as they come; `counted` hears of each of the `of` that there are to be."""
    for number, group in enumerate(groups, 1):
        counted(number, of)
        yield group


class Promised:
    """Scores that were promised and are waited for; `counted` hears of the groups that have theirs."""

    def __init__(
        self,
        start: Callable[[Prompt, Members], Future[list[Score]]],
        counted: Counted,
        pause: Pause,
    ) -> None:
        self._start, self._counted, self._pause = start, counted, pause
        self._promised: list[Future[list[Score]]] = []

    def start(self, prompt: Prompt, group: Members) -> Future[list[Score]]:
        """Has a group scored."""
        if all(future.done() for future in self._promised):
            self._promised.clear()
        future = self._start(prompt, group)
        self._promised.append(future)
        return future

    def pause(self) -> None:
        """For whoever waits for scores."""
        self._pause()
        self._counted(sum(future.done() for future in self._promised), len(self._promised))
