"""What LLMs were asked in a run, what it cost, and how far the judges can be trusted: from its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_rl.report.standing import Json, standing
from refine_rl.report.survey import Seen
from refine_rl.run import RunFolder
from refine_rl.types import count_of
from refine_rl.types.amounts import price

_GOOD = ("ok", "cached", "cut")
_REPLIED = (*_GOOD, "unusable", "refusal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """The calls for one purpose to one model. `dollars` is the sum of the calls of known cost, None where
    there are others only; `unknown` is the number of those. `failed` says what came to nothing, by outcome,
    and `unusable` how many replies came and could not be used, whatever their outcome."""

    purpose: str
    model: str
    calls: int
    cached: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    unknown: int
    failed: Mapping[str, int]
    unusable: int = 0


def bills(calls: Sequence[Json]) -> list[Bill]:
    """The ledger by purpose and model, in the order in which they first came.

    >>> line = {"purpose": "judge", "endpoint": "e", "model": "m", "tokens_in": 10, "tokens_out": 5,
    ...         "cost_usd": 0.5, "outcome": "ok"}
    >>> lost = line | {"tokens_in": None, "tokens_out": None, "cost_usd": None, "outcome": "timeout"}
    >>> (bill,) = bills([line, lost])
    >>> bill.calls, bill.dollars, bill.unknown, dict(bill.failed)
    (2, 0.5, 1, {'timeout': 1})
    """
    groups: dict[tuple[str, str], list[Json]] = {}
    for call in calls:
        groups.setdefault((call["purpose"], f"{call['endpoint']}/{call['model']}"), []).append(call)
    return [_bill(purpose, model, some) for (purpose, model), some in groups.items()]


def _bill(purpose: str, model: str, calls: Sequence[Json]) -> Bill:
    asked = [c for c in calls if c["outcome"] != "cached"]
    known = [c["cost_usd"] for c in asked if c["cost_usd"] is not None]
    return Bill(
        purpose=purpose,
        model=model,
        calls=len(asked),
        cached=len(calls) - len(asked),
        tokens_in=sum(c["tokens_in"] or 0 for c in asked),
        tokens_out=sum(c["tokens_out"] or 0 for c in asked),
        dollars=sum(known) if known or not asked else None,
        unknown=len(asked) - len(known),
        failed=Counter(c["outcome"] for c in calls if c["outcome"] not in _GOOD or _error(c)),
        unusable=sum(c["outcome"] in _REPLIED and bool(_error(c)) for c in calls),
    )


def _error(call: Json) -> str:
    return str(call.get("extra", {}).get("error", ""))


def money(dollars: float | None, unknown: int) -> str:
    """A sum with what is not in it.

    >>> money(1.25, 0), money(0.00042, 2), money(None, 3), money(0.0, 0)
    ('$1.25', '$0.00042 and 2 calls of unknown cost', 'unknown', '$0')
    """
    if dollars is None:
        return "unknown" if unknown else "–"
    shown = price(dollars)
    calls = count_of(unknown, "call")
    return f"{shown} and {calls} of unknown cost" if unknown else shown


def total(rows: Sequence[Bill]) -> str:
    """What all calls came to."""
    known = [row.dollars for row in rows if row.dollars is not None]
    return money(sum(known) if known else None, sum(row.unknown for row in rows))


def summary(rows: Sequence[Bill]) -> str:
    """The whole ledger in a few words.

    >>> bill = Bill(purpose="judge", model="e/m", calls=32, cached=8, tokens_in=9, tokens_out=9,
    ...             dollars=None, unknown=32, failed={})
    >>> summary([bill])
    '32, cost unknown; 8 replies from the cache'
    """
    calls, cached = sum(row.calls for row in rows), sum(row.cached for row in rows)
    cost = total(rows)
    kept = f"; {cached} repl{'y' if cached == 1 else 'ies'} from the cache" if cached else ""
    lost = sum(row.unusable for row in rows)
    unused = f"; {lost} repl{'y' if lost == 1 else 'ies'} that could not be used" if lost else ""
    return f"{calls}, {'cost unknown' if cost == 'unknown' else cost}{kept}{unused}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the page shows. `agreement` is the mean over groups that had two looks, with their number;
    `anchors` holds (when, what each kind of bad answer got) of the first and the newest look that still
    stand; `rubric` is the text of the settings where it is no file's name."""

    bills: tuple[Bill, ...]
    total: str
    agreement: tuple[float, int] | None
    anchors: tuple[tuple[str, str], ...]
    rubric: str


def asked(run: RunFolder, events: Sequence[Json], groups: Sequence[Seen]) -> Asked | None:
    """What the page shows of the LLMs of a run, whose groups are these; None where none was asked."""
    rows = bills(run.calls())
    if not rows:
        return None
    looks = standing(events, "anchors")
    agreed = [g.agreement for g in groups if g.agreement is not None]
    return Asked(
        bills=tuple(rows),
        total=total(rows),
        agreement=(fmean(agreed), len(agreed)) if agreed else None,
        anchors=tuple((_when(e), e["text"]) for e in (looks[:1] + looks[-1:] if len(looks) > 1 else looks)),
        rubric="" if (rubric := run.settings().reward.rubric).startswith("file:") else rubric,
    )


def _when(look: Json) -> str:
    """When a look was taken: the step, and the time on the clock of the run."""
    step = "Before training" if look["step"] == 0 else f"At step {look['step']}"
    return f"{step} ({str(look['time']).replace('T', ' ')[:16]} UTC)"
