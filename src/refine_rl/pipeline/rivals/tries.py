"""What was tried to make a rival: each thing is done once, over all processes; what it took is on record."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from refine_rl.llm.meter import meter
from refine_rl.run.rivals import RivalFiles


def key_of(*what: object) -> str:
    """A name for what is tried, from all that it follows from.

    >>> key_of("answer", "p1") == key_of("answer", "p1"), key_of("answer", "p1") == key_of("answer", "p2")
    (True, False)
    """
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


class Tries:
    """Does things once, and adds up what those took that were asked for here, also where an earlier process
    did them: scored `answers`, `calls` to LLMs, `cost_usd` (None: unknown) and `seconds`."""

    def __init__(self, files: RivalFiles) -> None:
        self._shelf = files.shelf
        self._counted: set[str] = set()
        self.answers = self.calls = 0
        self.seconds = 0.0
        self.cost_usd: float | None = 0.0

    def each(
        self, keys: Sequence[str], do: Callable[[Sequence[int]], Sequence[Any]], *, answers: int = 0
    ) -> list[Any]:
        """What stands under each of these keys, all different: a value of JSON. `do` makes those that are on
        no record, given their places, and has so many answers scored for each."""
        new = [place for place, key in enumerate(keys) if self._shelf.get(key) is None]
        if new:
            began = time.perf_counter()
            with meter() as counted:
                values = do(new)
            seconds = (time.perf_counter() - began) / len(new)
            calls, cost = counted.calls, counted.cost_usd
            for place, value in zip(new, values, strict=True):
                took = {"answers": answers, "calls": calls, "cost_usd": cost, "seconds": round(seconds, 4)}
                self._shelf.put(keys[place], {"value": value, **took})
                calls, cost = 0, 0.0
        return [self._counting(key)["value"] for key in keys]

    def once(self, key: str, do: Callable[[], Any], *, answers: int = 0) -> Any:
        """What stands under one key."""
        return self.each([key], lambda new: [do()], answers=answers)[0]

    def add(self, *, calls: int = 0, cost_usd: float | None = 0.0, seconds: float = 0.0) -> None:
        """What else the making took."""
        self.calls += calls
        self.seconds += seconds
        known = self.cost_usd is not None and cost_usd is not None
        self.cost_usd = self.cost_usd + cost_usd if known else None  # type: ignore[operator]

    def _counting(self, key: str) -> dict[str, Any]:
        made = self._shelf.get(key)
        assert made is not None  # it was just put there
        if key not in self._counted:
            self._counted.add(key)
            self.answers += made["answers"]
            self.add(calls=made["calls"], cost_usd=made["cost_usd"], seconds=made["seconds"])
        return made
