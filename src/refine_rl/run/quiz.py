"""The quiz's questions, which base and tuned get alike: going back in training keeps them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from refine_rl.run.files import Record
from refine_rl.run.table import Table


class QuizShelf:
    """What was made of each source, by a key; the newest line of a key counts. Read once, so that it
    belongs to one writer."""

    def __init__(self, table: Table[Record]) -> None:
        self._table = table

    def get(self, key: str) -> dict[str, Any] | None:
        return self._made.get(key)

    def put(self, key: str, made: dict[str, Any]) -> None:
        self._made[key] = made
        self._table.append({"key": key, "made": made})

    @cached_property
    def _made(self) -> dict[str, dict[str, Any]]:
        return {record["key"]: record["made"] for record in self._table.lines()}
