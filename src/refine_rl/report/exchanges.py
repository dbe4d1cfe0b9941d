"""What LLMs were asked and what they replied, for the page: all of it where it fits, else evenly fewer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refine_rl.report.data import cut
from refine_rl.report.evenly import evenly
from refine_rl.report.standing import Json
from refine_rl.run import RunFolder

LONGEST_TEXT = 6000  # characters of one message
_REPEATED = 200  # characters from which on a message that was shown before is not shown again


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A call as the page shows it; `reply` is None where none came, `first` where it is the first of its
    purpose and model, or the first of these whose reply could not be used."""

    id: int
    purpose: str
    about: str
    model: str
    outcome: str
    error: str
    messages: tuple[tuple[str, str], ...]
    reply: str | None
    first: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchanges:
    """`shown` are some of `total` calls on record, all of them where they fit; `size`: about their bytes."""

    shown: tuple[Shown, ...]
    total: int
    size: int

    @property
    def thinned(self) -> bool:
        return len(self.shown) < self.total


def collect(run: RunFolder, limit: int) -> Exchanges:
    """The calls of a run for the page, in about `limit` bytes.

    The file is read twice, so that memory holds the chosen calls and not the whole run. The first of each
    purpose and model is there, and the first whose reply could not be used; of the rest, half of the room is
    for calls that came to nothing.
    """
    sizes, failed, firsts = [], [], []
    kinds: set[tuple[str, str, bool]] = set()
    for place, record in enumerate(run.exchanges.lines()):
        bad = bool(record["error"])
        kind = (record["purpose"], record["model"], bad)
        sizes.append(_size(record))
        if bad:
            failed.append(place)
        if kind not in kinds:
            kinds.add(kind)
            firsts.append(place)
    chosen = choose(sizes, firsts=firsts, failed=failed, limit=limit)
    told: dict[str, int] = {}
    shown = tuple(
        _shown(record, told, first=place in firsts)
        for place, record in enumerate(run.exchanges.lines())
        if place in chosen
    )
    return Exchanges(shown=shown, total=len(sizes), size=sum(sizes[place] for place in chosen))


def choose(sizes: Sequence[int], *, firsts: Iterable[int], failed: Sequence[int], limit: int) -> set[int]:
    """The places that are kept to stay within `limit`: the firsts, then failed ones up to half of it, then
    others, each spread evenly.

    >>> sorted(choose([10] * 8, firsts=[0], failed=[], limit=100))
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> sorted(choose([10] * 8, firsts=[0], failed=[5], limit=40))
    [0, 2, 4, 5]
    """
    kept: set[int] = set()
    used = 0
    for wanted, room in (
        (firsts, limit),
        (evenly(failed), limit // 2),
        (evenly(range(len(sizes))), limit),
    ):
        for place in wanted:
            if place not in kept and used + sizes[place] <= room:
                kept.add(place)
                used += sizes[place]
    return kept


def _size(record: Json) -> int:
    """About the bytes that a call takes on the page; instructions that come again are shown once."""
    texts = [m["content"] for m in record["messages"] if m["role"] != "system"]
    texts += [record["reply"] or "", record["error"]]
    return 300 + sum(min(len(text), LONGEST_TEXT) for text in texts)


def _shown(record: Json, told: dict[str, int], *, first: bool) -> Shown:
    """The call of a record; `told` knows in which call a long message stands already."""
    messages = []
    for message in record["messages"]:
        text: str = message["content"]
        if len(text) > _REPEATED and (before := told.setdefault(text, record["id"])) != record["id"]:
            text = f"(as in call {before})"
        messages.append((message["role"], cut(text, LONGEST_TEXT)))
    reply = record["reply"]
    return Shown(
        **{key: record[key] for key in ("id", "purpose", "about", "model", "outcome", "error")},
        messages=tuple(messages),
        reply=None if reply is None else cut(reply, LONGEST_TEXT),
        first=first,
    )
