"""Calls to LLMs that were sent, and of whose end nothing is known."""

from __future__ import annotations

import dataclasses

from refine_rl.llm.client import Call
from refine_rl.run.files import Record
from refine_rl.run.table import Table


class UnderWay:
    """What a process that is killed would owe, told beforehand: a line when a call goes out, and one when it
    is in the ledger."""

    def __init__(self, table: Table[Record]) -> None:
        self.table = table

    def sent(self, ticket: int, killed: Call) -> None:
        """A call is about to be sent. Where the process is killed before `done`, `repair` makes `killed` a
        line of the ledger: the call may have to be paid for."""
        self.table.append({"ticket": ticket, "call": dataclasses.asdict(killed)})

    def done(self, ticket: int) -> None:
        """What came of the call is in the ledger."""
        self.table.append({"ticket": ticket, "done": True})

    def calls(self) -> list[Call]:
        """Those that did not come back."""
        calls: dict[int, Call] = {}
        for record in self.table.lines():
            if "call" in record:
                calls[record["ticket"]] = Call(**record["call"])
            else:
                calls.pop(record["ticket"], None)
        return list(calls.values())
