"""What a judge's look at a group is: the records that ruler, absolute and pairwise judging share.

A `Case` is made once for a group: what was asked, and each distinct answer once. A `Judging` turns a
case and a client into a `Verdict`: one look. How many looks there are, by whom, and how they are
brought together into scores is the panel's business (panel.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from refine_rl.llm.client import Client
from refine_rl.types import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A group as judges see it. `context` are the messages that all answers share; each entry of
    `answers` is what one distinct attempt added to them. `about` is the prompt's id, for the ledger.

    >>> case = Case(about="p1", context=({"role": "user", "content": "Hi."},),
    ...             answers=(({"role": "assistant", "content": "Hello."},),))
    >>> len(case.answers)
    1
    """

    about: str
    context: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One look: a value in [0, 1] and a line of reasons for each distinct answer, in the case's order.
    A value of None could not be had; its reason says why.

    >>> Verdict(values=(0.5, None), reasons=("fine", "the judge did not answer")).values
    (0.5, None)
    """

    values: tuple[float | None, ...]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.reasons):
            raise ValueError("a verdict needs one reason for each value")

    @classmethod
    def of(cls, judged: Sequence[tuple[float | None, str]]) -> Verdict:
        """Of (value, reason), one for each distinct answer."""
        return cls(values=tuple(value for value, _ in judged), reasons=tuple(why for _, why in judged))


class Judging(Protocol):
    """A way of judging. `relative`: its values compare only within one case."""

    @property
    def relative(self) -> bool: ...

    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        """The verdict of look number `look` (0, 1 ...: another order, another variation). A call that
        fails makes values of None; what concerns the whole endpoint or the budget is let through."""
