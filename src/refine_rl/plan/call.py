"""Calls of one kind, counted before any is made."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Calls of one purpose (the word that stands in the ledger) at one stage of the run, to one model; with
    the tokens of one call, low and high."""

    purpose: str
    stage: str
    model: str
    low: int
    high: int
    tokens_in: Range
    tokens_out: Range


def made(purpose: str, stage: str, model: str, number: Range, lengths: tuple[Range, Range]) -> Calls:
    return Calls(
        purpose=purpose,
        stage=stage,
        model=model,
        low=number[0],
        high=number[1],
        tokens_in=lengths[0],
        tokens_out=lengths[1],
    )
