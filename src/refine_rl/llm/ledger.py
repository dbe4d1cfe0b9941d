"""The ledger: a line for every attempt at a call, the money spent, and the cap on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from refine_rl.errors import GuardStop
from refine_rl.llm.client import Call, Exchange, Request
from refine_rl.llm.kept import Keep, forget
from refine_rl.llm.meter import NANO, count
from refine_rl.types.amounts import price

ESTIMATE = "estimated_usd"
"""The key, in a line's `extra`, of what a call that was lost after sending may have cost."""


class Ledger:
    """Writes every call down, and knows what was spent. Threads may share it.

    `spent` and `unknown` say how much, and how many calls of unknown cost, earlier parts of the run had (see
    `already_spent`). With `dollars`, `check` raises GuardStop once that is reached; calls that were lost
    after sending count there with a cautious estimate. `sent` and `done` are told of every attempt before
    it is made and after its line is written, so that one can tell after a kill what was under way. `keep`
    gets what was asked and replied. Calls are numbered from `first` + 1 on.

    >>> lines = []
    >>> ledger = Ledger(lines.append, dollars=1.0, spent=0.75)
    >>> ledger.record(Call(purpose="judge", endpoint="e", model="m", tokens_in=9, tokens_out=9,
    ...                    cost_usd=0.125, seconds=1.0, outcome="ok"))
    >>> ledger.known_usd, ledger.unknown_calls, len(lines)
    (0.875, 0, 1)
    """

    def __init__(
        self,
        write: Callable[[Call], None],
        *,
        dollars: float | None = None,
        spent: float = 0.0,
        unknown: int = 0,
        sent: Callable[[int, Call], None] = lambda ticket, killed: None,
        done: Callable[[int], None] = lambda ticket: None,
        keep: Keep = forget,
        first: int = 0,
    ) -> None:
        self._write = write
        self._sent = sent
        self._done = done
        self._keep = keep
        self._last_id = first
        self._lock = threading.Lock()
        self._nano = round(spent * NANO)
        self._lost_nano = 0
        self.unknown_calls = unknown  # that are not in `known_usd`
        self.dollars = dollars

    @property
    def known_usd(self) -> float:
        """What all calls of known cost came to, in dollars."""
        return self._nano / NANO

    def check(self) -> None:
        """Raises GuardStop where the cap is reached; to be called before every attempt."""
        if self.dollars is None:
            return
        with self._lock:
            nano, lost = self._nano, self._lost_nano
        if nano + lost < round(self.dollars * NANO):
            return
        perhaps = f" (and perhaps {price(lost / NANO)} for calls that were lost on the way)" if lost else ""
        raise GuardStop(
            "budget",
            f"The calls to LLMs have cost {price(nano / NANO)}{perhaps}; budget.dollars is {self.dollars:g}.",
            "Raise budget.dollars and go on with --resume.",
            limit=2 * (nano + lost) / NANO,
        )

    def send(self, killed: Call) -> int:
        """Puts down that a call is about to be sent; returns the ticket under which `record` closes it, the
        call's id. `killed` is the line that stands for it where the process ends before that."""
        with self._lock:
            self._last_id += 1
            self._sent(self._last_id, replace(killed, id=self._last_id))
            return self._last_id

    def record(
        self,
        call: Call,
        ticket: int | None = None,
        *,
        request: Request | None = None,
        reply: str | None = None,
    ) -> None:
        """Writes a line, and adds it to the sums and to the meters that are running. `request` and `reply`
        are kept as they are given, without any key in them; nothing is where there is no request."""
        with self._lock:
            if ticket is None:
                self._last_id += 1
            call = replace(call, id=self._last_id if ticket is None else ticket)
            if request is not None:
                # Before the line: whatever has one can be looked up.
                self._keep(Exchange(call=call, messages=request.messages, form=request.form, reply=reply))
            self._write(call)
            if ticket is not None:
                # A kill between the two counts the call twice: rather that than not at all.
                self._done(ticket)
            if call.cost_usd is None:
                self.unknown_calls += 1
                self._lost_nano += round(call.extra.get(ESTIMATE, 0.0) * NANO)
            else:
                self._nano += round(call.cost_usd * NANO)
        count(
            calls=0 if call.outcome == "cached" else 1,
            cost_usd=call.cost_usd,
            unusable=int(reply is not None and "error" in call.extra),
        )


def last_id(lines: Sequence[Mapping[str, Any]]) -> int:
    """The number of the last call in a ledger's lines, for the `first` of the next Ledger; lines of before
    calls had numbers count as well.

    >>> last_id([{"id": 3}, {"id": 1}]), last_id([{}, {}])
    (3, 2)
    """
    numbers: list[int] = [line.get("id", 0) for line in lines]
    return max([len(lines), *numbers])


def already_spent(lines: Iterable[Mapping[str, Any]]) -> tuple[float, int]:
    """What a ledger's lines (as JSON objects) come to, for the `spent` and `unknown` of the next Ledger.
    Calls that were lost on the way count with their estimate.

    >>> already_spent([{"cost_usd": 0.25}, {"cost_usd": None}, {"cost_usd": None, "extra": {ESTIMATE: 0.5}}])
    (0.75, 2)
    """
    nano, unknown = 0, 0
    for line in lines:
        cost = line.get("cost_usd")
        if cost is None:
            unknown += 1
            cost = line.get("extra", {}).get(ESTIMATE, 0.0)
        nano += round(cost * NANO)
    return nano / NANO, unknown
