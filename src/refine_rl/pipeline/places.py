"""Whether a reward goes with the answer or with its place among the others.

A function that is given all answers to a prompt at once, and returns its scores in another order, pays each
answer for what another one says. Nothing in the rewards shows that: their mean and spread are right. Where
two answers change places, such a reward gives itself away.
"""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.pipeline.work import Work
from refine_rl.types import Outcome, Score, Trajectory, decimals, one_line, same_value

_MANY = 3  # answers: of two, each order is the other one turned round
_TRIED = 3  # prompts


def look_at_places(work: Work, outcomes: Sequence[Outcome]) -> None:
    """Scores the answers to a few prompts twice more: as they were, and with two neighbours of different text
    and reward in each other's place. Warns where only that changes rewards. A reward that asks LLMs is left
    out (its judges are looked at otherwise), and so is one that is not the same twice."""
    if work.settings.reward.asks:
        return
    tried = 0
    for outcome in outcomes:
        answers = tuple(t for t, _ in outcome.sampled)
        values = [s.value for _, s in outcome.sampled]
        first = _neighbours(answers, values)
        if first is None:
            continue
        found = _found(work, outcome, answers, values, first)
        if found is not None:
            text, then, now = found
            work.journal.warning(
                "reward_by_place",
                f"Rewards go with the places of answers: of those to {outcome.prompt.id}, "
                f"“{one_line(text, most=60)}” got {then}, and {now} when two answers had changed places. A "
                "function that is given all answers at once must return its scores in their order. Unless it "
                "is to look at their order, mend it and start anew.",
                0,
            )
            return
        if (tried := tried + 1) == _TRIED:
            return


def _neighbours(answers: Sequence[Trajectory], values: Sequence[float | None]) -> int | None:
    """The place of the first answer that differs from the next one in text and reward; None without one."""
    if len(values) < _MANY or None in values:
        return None
    return next(
        (
            i
            for i in range(len(values) - 1)
            if values[i] != values[i + 1] and answers[i].said != answers[i + 1].said
        ),
        None,
    )


def _found(
    work: Work,
    outcome: Outcome,
    answers: tuple[Trajectory, ...],
    values: Sequence[float | None],
    first: int,
) -> tuple[str, str, str] | None:
    """What `_changed` says where the answers at `first` and behind it change places, and only then."""
    scorer, after = work.scorers.validation, first + 1
    again = work.waited_for(scorer.score_group(outcome.prompt, answers))
    if _changed(answers, values, again) is not None:
        return None
    swapped = [*answers]
    swapped[first], swapped[after] = answers[after], answers[first]
    turned = work.waited_for(scorer.score_group(outcome.prompt, tuple(swapped)))
    turned[first], turned[after] = turned[after], turned[first]
    return _changed(answers, values, turned)


def _changed(
    answers: Sequence[Trajectory], before: Sequence[float | None], after: Sequence[Score]
) -> tuple[str, str, str] | None:
    """The first text whose rewards are others, with one that was and one that is; None where all are the
    same. Of members with the same text it does not matter which got what."""
    rewards: dict[str, tuple[list[float], list[float]]] = {}
    for answer, old, new in zip(answers, before, after, strict=True):
        if old is None or new.value is None:
            return None
        both = rewards.setdefault(answer.said, ([], []))
        both[0].append(old)
        both[1].append(new.value)
    for text, (olds, news) in rewards.items():
        for old, value in zip(sorted(olds), sorted(news), strict=True):
            if not same_value([old, value]):
                return text, decimals(old), decimals(value)
    return None
