"""Prompts -> scored groups with advantages: one step's data.

Groups are sampled one after the other and go to be scored as soon as they are whole; their scores are waited
for together. Where more are sampled than scored (`Collector.scored`), they go when all are there. With
`Schedule.ahead` the next step is sampled before this one's scores are waited for. A step
that an earlier process recorded is taken from the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import torch

from refine_rl.envs.base import Members
from refine_rl.progress import Pause, never, wait
from refine_rl.training.grpo.advantages import Advantages, Scored
from refine_rl.training.grpo.choice import Choice
from refine_rl.training.grpo.record import Record
from refine_rl.training.grpo.resample import filled_up
from refine_rl.training.grpo.selection import Selection, chosen, diversities
from refine_rl.training.missing import require_scores
from refine_rl.types import Group, Prompt, Score, Trajectory

Play = Callable[[Sequence[Prompt], int], Iterable[tuple[int, Members]]]
"""(prompts, step) -> the place of each prompt and its group, as soon as that is whole."""

Start = Callable[[Prompt, Members], Future[list[Score]]]
"""Takes a group and promises its scores; many groups may be under way at once."""

Penalties = Callable[[Sequence[Members], int], "Sequence[Sequence[float]] | None"]
"""(groups, step) -> what is taken off each member's reward; None: nothing."""

Compare = Callable[[Sequence[Trajectory], int], torch.Tensor]
"""(trajectories, step) -> |trainer - sampler| of some tokens with the weights of this moment, [N]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """A step's groups. `seen` compares sampler and trainer where weights have moved since they were sampled;
    `seconds` is what sampling and scoring took; `told` goes into the step's metrics."""

    groups: Sequence[Group]
    seen: torch.Tensor | None
    seconds: Mapping[str, float]
    told: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnderWay:
    """Groups that are sampled, and being scored. `promised` has a future for each of them; `selection` says
    which others were sampled beside them."""

    prompts: Sequence[Prompt]
    groups: Sequence[Members]
    promised: Sequence[Future[list[Score]]]
    selection: Selection | None = None

    def scored(self, pause: Pause) -> list[Scored]:
        """Waits for the scores. The order in which they come is of no account."""
        scores = [wait(future, pause) for future in self.promised]
        return [
            (prompt, group, tuple(its))
            for prompt, group, its in zip(self.prompts, self.groups, scores, strict=True)
        ]


def start(prompts: Sequence[Prompt], step: int, *, play: Play, score: Start) -> UnderWay:
    """Samples one group a prompt; each goes to be scored as soon as it is whole."""
    groups: dict[int, Members] = {}
    promised: dict[int, Future[list[Score]]] = {}
    for place, group in play(prompts, step):
        groups[place], promised[place] = group, score(prompts[place], group)
    order = range(len(prompts))
    return UnderWay(prompts=prompts, groups=[groups[i] for i in order], promised=[promised[i] for i in order])


def start_best(prompts: Sequence[Prompt], step: int, *, play: Play, score: Start, count: int) -> UnderWay:
    """Samples one group a prompt; the `count` most diverse of them, by facets, go to be scored."""
    groups = dict(play(prompts, step))
    found = diversities([groups[i] for i in range(len(prompts))])
    places = chosen(found, prompts, count)
    best = [prompts[i] for i in places]
    selection = Selection(prompts=prompts, diversity=found, scored=frozenset(p.id for p in best))
    promised = [score(prompts[i], groups[i]) for i in places]
    return UnderWay(prompts=best, groups=[groups[i] for i in places], promised=promised, selection=selection)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flight:
    """A step from its sampling until it is trained on. `under_way` is None where it is on record; `selection`
    where all that was sampled is scored."""

    under_way: UnderWay | None
    seen: torch.Tensor | None = None
    selection: Selection | None = None

    @property
    def told(self) -> Mapping[str, object]:
        return {} if self.selection is None else self.selection.metrics()

    @property
    def turns(self) -> Sequence[Prompt]:
        """The prompts that have had a turn, as long as no record says so."""
        if self.under_way is None:
            return ()
        return self.under_way.prompts if self.selection is None else self.selection.prompts


@dataclass(kw_only=True)
class Collector:
    """`collector(step)` gives the groups of a step, 1 to `steps`, in order. `resample` is how many groups may
    be sampled in place of those without spread; `scored` how many of a step's groups are scored (None: all),
    and `max_missing` the share of scores that may be missing."""

    steps: int
    choice: Choice
    record: Record
    play: Play
    score: Start
    compare: Compare
    advantages: Advantages = field(default_factory=Advantages)
    penalties: Penalties = lambda groups, step: None
    resample: int = 0
    scored: int | None = None
    max_missing: float = 0.0
    pause: Pause = never
    _flights: dict[int, _Flight] = field(default_factory=dict)

    def __call__(self, step: int) -> Collected:
        """Raises GuardStop where too many scores are missing; whatever `play`, `score` and `pause` raise is
        let through."""
        began = time.perf_counter()
        flight = self._flights.pop(step, None) or self._take_off(step)
        if step < self.steps and self.choice.schedule.sampled_after(step + 1) < step:
            self._flights[step + 1] = self._take_off(step + 1, before=flight)
        sampled_at = time.perf_counter()
        if flight.under_way is None:
            groups = self.record.recorded(step) or ()
            seconds = {"sample": sampled_at - began, "score": 0.0}
            return Collected(groups=groups, seen=flight.seen, seconds=seconds, told=flight.told)
        scored, sampling = self._filled_up(flight.under_way.scored(self.pause), step)
        require_scores([s for _, _, its in scored for s in its], self.max_missing, f"Step {step}")
        waited = time.perf_counter() - sampled_at - sampling
        groups = self._groups(scored, step)
        self.record.groups(groups)
        seconds = {"sample": sampled_at - began + sampling, "score": waited}
        return Collected(groups=groups, seen=flight.seen, seconds=seconds, told=flight.told)

    def _take_off(self, step: int, before: _Flight | None = None) -> _Flight:
        """Samples a step and sends its groups to be scored, unless they are on record. `before` is the step
        before where that is still under way."""
        recorded = self.record.recorded(step)
        under_way = None
        if recorded is None:
            turns = () if before is None else before.turns
            its = self.choice.of_step(step, self.record.seen(), turns)
            self.record.pool(step, its)
            under_way = self._started(its.prompts, step)
            selection = under_way.selection
        else:
            selection = self.record.selection(step)
        if before is None:
            return _Flight(under_way=under_way, selection=selection)
        sampled = [g.trajectories for g in recorded or ()] if under_way is None else under_way.groups
        # Compared now, while the weights are those that sampled.
        seen = self.compare([t for g in sampled for t in g], step)
        return _Flight(under_way=under_way, seen=seen, selection=selection)

    def _started(self, prompts: Sequence[Prompt], step: int) -> UnderWay:
        """The groups of the prompts chosen for a step."""
        if self.scored is None:
            return start(prompts, step, play=self.play, score=self.score)
        under_way = start_best(prompts, step, play=self.play, score=self.score, count=self.scored)
        assert under_way.selection is not None
        self.record.selected(step, under_way.selection)
        return under_way

    def _filled_up(self, scored: list[Scored], step: int) -> tuple[list[Scored], float]:
        """With the groups in place of those without spread, and the seconds that these took to sample."""
        if not self.resample:
            return scored, 0.0
        seconds = 0.0

        def sampled(fresh: Sequence[Prompt]) -> list[Scored]:
            nonlocal seconds
            began = time.perf_counter()
            under_way = start(fresh, step, play=self.play, score=self.score)
            seconds += time.perf_counter() - began
            return under_way.scored(self.pause)

        others = partial(self.choice.others, step, self.record.seen())
        return filled_up(scored, others, sampled, budget=self.resample), seconds

    def _groups(self, scored: Sequence[Scored], step: int) -> list[Group]:
        penalties = self.penalties([members for _, members, _ in scored], step)
        return [
            Group(step=step, prompt=p, trajectories=t, scores=s, advantages=a)
            for (p, t, s), a in zip(scored, self.advantages(scored, penalties), strict=True)
        ]
