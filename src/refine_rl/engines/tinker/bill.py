"""What a service's calls come to: a line of the run's ledger each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from refine_rl.llm.client import Call
from refine_rl.llm.ledger import Ledger
from refine_rl.settings import EnginePrices

ENDPOINT = "tinker"
"""The service's name in the ledger."""


def _uncounted() -> Ledger:
    return Ledger(lambda call: None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Tokens of one call: read without a gradient (`prefill`), written (`sample`), and read with one
    (`train`).

    >>> Use(prefill=1_000_000, train=500_000).dollars(EnginePrices(prefill=0.5, sample=2.0, train=1.0))
    1.0
    """

    prefill: int = 0
    sample: int = 0
    train: int = 0

    def dollars(self, prices: EnginePrices | None) -> float | None:
        """None where the prices are not known."""
        if prices is None:
            return None
        millionths = self.prefill * prices.prefill + self.sample * prices.sample + self.train * prices.train
        return millionths / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """The calls to one model of a service."""

    model: str
    prices: EnginePrices | None = None
    ledger: Ledger = field(default_factory=_uncounted)

    def begin(self, purpose: str, about: str = "") -> Line:
        """A call that is about to be sent. Raises GuardStop where budget.dollars is used up."""
        self.ledger.check()
        call = Call(
            purpose=purpose,
            endpoint=ENDPOINT,
            model=self.model,
            tokens_in=None,
            tokens_out=None,
            cost_usd=None,
            seconds=0.0,
            outcome="killed",
            about=about,
        )
        return Line(bill=self, call=call, ticket=self.ledger.send(call), began=time.perf_counter())


@dataclass(kw_only=True, slots=True)
class Line:
    """A call under way; the first word on what became of it counts."""

    bill: Bill
    call: Call
    ticket: int
    began: float
    over: bool = False

    def end(self, use: Use) -> None:
        """It went well."""
        cost = use.dollars(self.bill.prices)
        self._write(
            replace(
                self.call,
                tokens_in=use.prefill + use.train,
                tokens_out=use.sample,
                cost_usd=cost,
                outcome="ok",
            )
        )

    def lost(self, outcome: str, error: str = "") -> None:
        """It failed, or was given up: nobody knows what it has used."""
        self._write(replace(self.call, outcome=outcome, extra={"error": error} if error else {}))

    def _write(self, call: Call) -> None:
        if self.over:
            return
        self.over = True
        seconds = time.perf_counter() - self.began
        self.bill.ledger.record(replace(call, seconds=seconds), self.ticket)
