"""What people preferred, for the report: their votes, and whose judgement agrees with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.evaluate.agreement import Agreement
from refine_rl.evaluate.votes import Count, pairs_of, standing, tally
from refine_rl.report.review import told
from refine_rl.report.standing import Json
from refine_rl.run import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewer:
    """One person's votes, and how far the rewards on record agree with them."""

    name: str
    count: Count
    with_reward: Agreement


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewed:
    """`lines` say what all votes together mean; `stale` votes were on answers that are no longer there.
    `calibrations` are the newest of each judge and rubric, as they stand on record, the best first."""

    lines: tuple[str, ...]
    reviewers: tuple[Reviewer, ...]
    pairs: int
    stale: int
    calibrations: tuple[Json, ...]


def collect(run: RunFolder) -> Reviewed | None:
    """None where nobody has voted on what is there."""
    if not run.votes.exists():
        return None
    base, tuned, seed = run.outcomes("base"), run.outcomes("tuned"), run.settings().grpo.seed
    if base is None or tuned is None:
        return None
    records = run.votes()
    pairs = pairs_of(base, tuned, seed)
    votes = standing(records, pairs)
    if not votes:
        return None
    found = tally(votes, pairs, seed)
    marks = {pair.prompt.id: pair.mark for pair in pairs}
    return Reviewed(
        lines=tuple(told(found)),
        reviewers=tuple(
            Reviewer(name=name, count=found.reviewers[name], with_reward=found.with_each[name])
            for name in found.reviewers
        ),
        pairs=len({name for own in votes.values() for name in own}),
        stale=len({(r["reviewer"], r["prompt_id"]) for r in records if _is_stale(r, marks)}),
        calibrations=_newest(run.calibrations()),
    )


def _is_stale(record: Json, marks: Mapping[str, str]) -> bool:
    return bool(record["vote"] != "undone" and marks.get(record["prompt_id"]) != record["mark"])


def _newest(records: Sequence[Json]) -> tuple[Json, ...]:
    """Of each judge and rubric the last, in the order of their kappa."""
    last = {(record["judge"], record["rubric"]): record for record in records}
    return tuple(sorted(last.values(), key=lambda record: -(record["kappa"] or 0.0)))
