"""The same training under several seeds: what all of it takes. The later runs have the prompts and the base
model's answers of the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from refine_rl.plan.calls import Calls, calls, resampled
from refine_rl.plan.counts import Counts
from refine_rl.plan.durations import Seconds, alone, durations
from refine_rl.plan.pace import Work
from refine_rl.plan.rollback import repeated
from refine_rl.settings import Settings

Span = tuple[float, float]


def calls_of_all(settings: Settings, counts: Counts, seeds: int) -> list[Calls]:
    """The calls of a first run and of `seeds` - 1 later ones."""
    first, more = calls(settings, counts), seeds - 1
    if not more:
        return first
    others = {(c.purpose, c.stage, c.model): c for c in calls(settings, counts, second=True)}
    found = []
    for c in first:
        other = others.get((c.purpose, c.stage, c.model))
        if other is not None:
            c = replace(c, low=c.low + more * other.low, high=c.high + more * other.high)
        found.append(c)
    return found


def seconds_of_all(
    settings: Settings,
    counts: Counts | None,
    work: Work | None,
    later: Work | None,
    before: Span | None,
    seeds: int,
) -> Seconds:
    """How long the first run, of so much `work`, and `seeds` - 1 `later` ones take, one after the other;
    `training` is that of the first, as budget.hours counts. `before` are the seconds of supervised
    fine-tuning, which is alone where there are no `counts`."""
    if counts is None:
        return alone(before)

    def one(work: Work | None, *, again: bool) -> Seconds:
        return durations(
            calls(settings, counts, second=again),
            work,
            steps=settings.grpo.steps,
            ahead=settings.ahead,
            endpoints=settings.endpoints,
            waves=resampled(settings.grpo, counts),
            again=repeated(settings, counts).steps,
            before=before or (0.0, 0.0),
        )

    first = one(work, again=False)
    if seeds == 1:
        return first
    other, more = one(later, again=True), seeds - 1
    return Seconds(
        machine=_sum(first.machine, other.machine, more),
        judges=_sum(first.judges, other.judges, more) or first.judges,
        training=first.training,
        total=_sum(first.total, other.total, more),
    )


def _sum(first: Span | None, other: Span | None, more: int) -> Span | None:
    if first is None or other is None:
        return None
    return first[0] + more * other[0], first[1] + more * other[1]


def note_of(settings: Settings, seeds: int) -> Iterator[str]:
    """What holds for all seeds together, and what for each."""
    if seeds == 1:
        return
    yield (
        f"All figures but the memory are of {seeds} runs, one after the other. The later ones take the "
        "prompts and the base model's answers of the first."
    )
    budget = settings.budget
    caps = ["budget.dollars caps all of them together"] if budget.dollars is not None else []
    caps += ["budget.hours caps each"] if budget.hours is not None else []
    if caps:
        yield f"{' and '.join(caps)}."
