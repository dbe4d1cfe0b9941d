"""The panel: looks at a group, by one judge or several, brought together into scores.

group -> Case (what was asked; each distinct answer once)
      -> looks (judges x repeats, at the same time; a larger judge where they disagree)
      -> a mean for each distinct answer, shared by all members that gave it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import fsum
from typing import Any, cast

from refine_rl.llm.background import all_of
from refine_rl.llm.client import Client
from refine_rl.rewards.judges.looks import Case, Judging, Verdict
from refine_rl.types import Message, Prompt, Score, Trajectory, one_line

NEUTRAL = 0.5
"""The value of answers that were not compared, because there was nothing to compare them with."""

_short = partial(one_line, most=400)  # of a reason in an explanation


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Judges as one reward.

    Every judge takes `repeats` looks; a score is the mean over the looks. `adaptive`: two looks first,
    the others only where those two disagree. `larger` is asked only where the looks disagree; then its
    verdict alone counts. Looks disagree where their `agreement` is below `agree`. A look without a value
    for every answer is left out whole: means over different looks do not compare. Where no look is whole,
    the fullest one counts alone, and what it lacks is missing.

    Under a relative judging, a group of one distinct answer costs no call and gets NEUTRAL.
    """

    judging: Judging
    judges: tuple[Client, ...]
    name: str = "judge"
    repeats: int = 1
    adaptive: bool = False
    larger: Client | None = None
    agree: float = 0.5

    @property
    def relative(self) -> bool:
        return self.judging.relative

    def asking_for(self, purpose: str) -> Panel:
        """The same panel, whose calls stand under another purpose in the ledger."""
        return replace(self, judging=replace(cast(Any, self.judging), purpose=purpose))

    def check_prompt(self, prompt: Prompt) -> None:
        """Every prompt can be judged."""

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score a trajectory, in the same order. What stops a run (EndpointRefused, EndpointDown,
        GuardStop) is let through."""
        if not trajectories:
            return []
        case, places = make_case(prompt, trajectories)
        if self.relative and len(case.answers) == 1:
            score = Score(value=NEUTRAL, explanation=_not_judged(len(trajectories)))
            return [score] * len(trajectories)
        scores = await self._judged(case)
        return [scores[place] for place in places]

    async def _judged(self, case: Case) -> list[Score]:
        # A judge's looks have numbers in a row: neighbours differ most in what they see.
        plan = [
            (place * self.repeats + again, client)
            for again in range(self.repeats)
            for place, client in enumerate(self.judges)
        ]
        first = 2 if self.adaptive else len(plan)
        looks = await self._look(case, plan[:first])
        if len(plan) > first and self._disagree(looks, unsure=True):
            looks += await self._look(case, plan[first:])
        scores = _mean(looks)
        if self.larger is None or not self._disagree(looks, unsure=False):
            return scores
        decided = (await self._look(case, [(len(plan), self.larger)]))[0]
        return _instead(scores, decided)

    async def _look(self, case: Case, plan: Sequence[tuple[int, Client]]) -> list[_Look]:
        verdicts = await all_of(self.judging.look(client, case, look=number) for number, client in plan)
        return [_Look(judge=client.model, verdict=v) for (_, client), v in zip(plan, verdicts, strict=True)]

    def _disagree(self, looks: Sequence[_Look], *, unsure: bool) -> bool:
        """Whether the whole looks disagree; `unsure` where fewer than two are whole."""
        whole = [look for look in looks if look.whole]
        if len(whole) < 2:
            return unsure
        found = agreement([look.values for look in whole])
        return found is not None and found < self.agree


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    judge: str
    verdict: Verdict

    @property
    def whole(self) -> bool:
        return None not in self.verdict.values

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for value in self.verdict.values if value is not None)

    @property
    def failure(self) -> str:
        return next(
            why for value, why in zip(self.verdict.values, self.verdict.reasons, strict=True) if value is None
        )


def make_case(prompt: Prompt, trajectories: Sequence[Trajectory]) -> tuple[Case, list[int]]:
    """The group as judges see it, and for each trajectory the place of its answer in the case.

    The context is the longest run of messages that all attempts share and go on behind; what stands before
    the first answer where there is but one distinct attempt.
    """
    attempts = {key_of(t.messages): t.messages for t in trajectories}
    if len(attempts) > 1:
        shortest = min(map(len, attempts.values()))  # a game may end where another one goes on
        shared = min(_shared(list(attempts.values())), max(0, shortest - 1))
    elif trajectories[0].played is None:
        shared = _shared([prompt.messages, *attempts.values()])
    else:  # what its world said at the beginning stands in the prompt's last message, or behind it
        shared = len(trajectories[0].messages) - len(_behind(prompt, trajectories[0]))
    order = {key: place for place, key in enumerate(attempts)}
    case = Case(
        about=prompt.id,
        context=trajectories[0].messages[:shared],
        answers=tuple(messages[shared:] for messages in attempts.values()),
    )
    return case, [order[key_of(t.messages)] for t in trajectories]


def _behind(prompt: Prompt, played: Trajectory) -> Sequence[Message]:
    """What was said from the first answer on."""
    messages = played.messages
    places = range(len(prompt.messages), len(messages))
    first = next((n for n in places if messages[n]["role"] == "assistant"), len(messages))
    return messages[first:]


def key_of(messages: Sequence[Message]) -> str:
    """The same for attempts that are the same to a judge."""
    return json.dumps([[m["role"], m["content"]] for m in messages])


def _shared(attempts: Sequence[Sequence[Message]]) -> int:
    """How many messages at their beginning all have in common."""
    count = 0
    for messages in zip(*attempts, strict=False):
        if any(message != messages[0] for message in messages):
            break
        count += 1
    return count


def agreement(looks: Sequence[Sequence[float]]) -> float | None:
    """The mean of Kendall's tau-b over all pairs of looks, in [-1, 1].

    A pair of which both see no difference between any answers agrees (1); where only one sees none,
    it is 0. None without two looks or without two answers.

    >>> agreement([(0.1, 0.5, 0.9), (0.2, 0.3, 0.4), (0.9, 0.5, 0.1)])
    -0.3333333333333333
    """
    if len(looks) < 2 or len(looks[0]) < 2:
        return None
    pairs = [_tau_b(a, b) for a, b in combinations(looks, 2)]
    return fsum(pairs) / len(pairs)


def _tau_b(a: Sequence[float], b: Sequence[float]) -> float:
    both = untied_a = untied_b = 0
    for i, j in combinations(range(len(a)), 2):
        sign_a = (a[i] > a[j]) - (a[i] < a[j])
        sign_b = (b[i] > b[j]) - (b[i] < b[j])
        both += sign_a * sign_b
        untied_a += sign_a * sign_a
        untied_b += sign_b * sign_b
    if not untied_a or not untied_b:
        return float(untied_a == untied_b)
    return float(both / (untied_a * untied_b) ** 0.5)


def _mean(looks: Sequence[_Look]) -> list[Score]:
    """The mean over the whole looks, a score for each distinct answer."""
    whole = [look for look in looks if look.whole]
    failures = list(dict.fromkeys(f"{look.judge}: {look.failure}" for look in looks if not look.whole))
    if not whole:
        return _fullest(looks, failures)
    left_out = f"; {len(looks) - len(whole)} of {len(looks)} looks left out ({'; '.join(failures)})"
    agreed = agreement([look.values for look in whole])
    return [
        Score(
            value=fsum(look.values[place] for look in whole) / len(whole),
            explanation=_reasons(whole, place) + (left_out if failures else ""),
            agreement=agreed,
        )
        for place in range(len(whole[0].values))
    ]


def _fullest(looks: Sequence[_Look], failures: Sequence[str]) -> list[Score]:
    """The scores of the look with the most values, where none is whole."""
    best = max(looks, key=lambda look: len(look.values))
    if not best.values:
        return [Score.missing("\n".join(failures))] * len(best.verdict.values)
    return [
        Score.missing(f"{best.judge}: {_short(reason)}")
        if value is None
        else Score(value=value, explanation=_short(reason))
        for value, reason in zip(best.verdict.values, best.verdict.reasons, strict=True)
    ]


def _reasons(looks: Sequence[_Look], place: int) -> str:
    if len(looks) == 1:
        return _short(looks[0].verdict.reasons[place])
    return "; ".join(
        f"{look.judge} {look.values[place]:.2f}: {_short(look.verdict.reasons[place]).rstrip('.')}"
        for look in looks
    )


def _instead(scores: Sequence[Score], look: _Look) -> list[Score]:
    """The larger judge's verdict in the place of scores on which the looks disagreed, if it is whole."""
    if not look.whole:
        missing = f"the looks disagree, and the larger judge is missing ({_short(look.failure)})"
        return [replace(score, explanation=f"{score.explanation}; {missing}") for score in scores]
    return [
        replace(
            score, value=value, explanation=f"the looks disagree, the larger judge decides: {_short(reason)}"
        )
        for score, value, reason in zip(scores, look.values, look.verdict.reasons, strict=True)
    ]


def _not_judged(members: int) -> str:
    if members == 1:
        return "not judged: one answer alone cannot be compared"
    return f"not judged: all {members} answers are the same"
