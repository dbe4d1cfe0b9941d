"""The whole plan: what is known, what is estimated, what exceeds the budget, what dominates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import indent

from refine_rl.plan import machine, pace
from refine_rl.plan.calls import Calls, resampled
from refine_rl.plan.counts import Counts
from refine_rl.plan.durations import Seconds
from refine_rl.plan.machine import Rates
from refine_rl.plan.money import Cost, cost, dollars, missing_keys
from refine_rl.plan.pace import Work
from refine_rl.plan.rollback import repeated, words_on
from refine_rl.plan.seeds import calls_of_all, note_of, seconds_of_all
from refine_rl.plan.service import Passed, at_service, passed, with_service, words_about
from refine_rl.plan.supervised import Supervised, count_rows, supervised
from refine_rl.plan.survey import Survey
from refine_rl.plan.teacher import teacher_bytes, words_on_teacher
from refine_rl.plan.team import Team, team_of
from refine_rl.plan.words import about_memory, about_rows, high_figures, notes_on, over_budget
from refine_rl.policy.size import Size, UnknownSize, model_size
from refine_rl.prompts.demonstrations import Shown
from refine_rl.prompts.fitting import require_enough, require_room
from refine_rl.settings import Settings
from refine_rl.types import amounts as spans
from refine_rl.types.amounts import BYTES, COUNT, SECONDS, amount

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Calls with what they cost; None where the price is unknown."""

    calls: Calls
    dollars: Span | None

    @property
    def name(self) -> str:
        return f"{self.calls.model}, {self.calls.stage}"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Plan:
    """What a run will take, or as many as there are `seeds` together. Spans are (low, high). `counts` are
    those of the prompts, None for supervised fine-tuning alone; `sft` is that stage, None for a task without
    it; `memory` (the larger stage's, on each device) and `disk` (of both) are bytes; `team` are the processes
    that share the machine's work, `service` what goes through a model that is elsewhere. `work` is that of
    one run, and `seconds.training` the first one's, as budget.hours counts."""

    seeds: int
    counts: Counts | None
    lines: tuple[Line, ...]
    service: tuple[Passed, ...]
    cost: Cost
    seconds: Seconds
    size: Size | None
    rates: Rates | None
    team: Team
    work: Work | None
    sft: Supervised | None
    memory: Span | None
    disk: float | None
    over: tuple[str, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """The sums, a line each; what exceeds the budget, and what else is to be known."""
        lines = {"prompts": self._prompts(), "calls": self._calls(), "time": self._time()}
        if self.memory is not None and self.disk is not None:
            lines |= {"memory": self.held(), "disk": amount(self.disk, self.disk, BYTES)}
        found = [f"  {name + ':':<9}{text}" for name, text in lines.items() if text]
        head = "Plan" if self.seeds == 1 else f"Plan of {self.seeds} seeds"
        return "\n".join([head, *found, *(indent(text, "  ") for text in (*self.over, *self.notes))])

    def held(self) -> str:
        """The memory, in words; empty where it is not known."""
        if self.memory is None:
            return ""
        team, text = self.team, amount(*self.memory, BYTES)
        if team.processes == 1:
            return text
        if self.rates is not None and self.rates.device == "cpu":
            return f"{text}, {team.processes} processes together"
        where = f"each of {team.devices} GPUs" if team.devices > 1 else "the GPU"
        return f"{text} on {where}, {team.processes} processes"

    def _prompts(self) -> str:
        c = self.counts
        if c is None:
            return ""
        return f"{c.train} to train on, {c.validation} to validate, {c.held_out} held out"

    def _calls(self) -> str:
        found = [line.calls for line in self.lines]
        total = amount(sum(k.low for k in found), sum(k.high for k in found), COUNT) if found else "none"
        if not found and not self.service:
            return f"{total} to LLMs"
        unknown = [f"the price of {', '.join(self.cost.unknown)} is unknown"] if self.cost.unknown else []
        spent = [spans.dollars(self.cost.low, self.cost.high)] if self.priced else []
        whose = " and the service" if self.service else ""
        return f"{total} to LLMs{whose}: {', and '.join([*spent, *unknown])}"

    @property
    def priced(self) -> bool:
        """Whether anything that is paid for has a known price."""
        found = [*(one.dollars for one in self.lines), *(one.dollars for one in self.service)]
        return any(dollars is not None for dollars in found)

    @property
    def elsewhere(self) -> str:
        """Whose time is not known, where that of all the rest is."""
        return "the service's" if self.service else "the machine's"

    def _time(self) -> str:
        if self.seconds.total is not None:
            return amount(*self.seconds.total, SECONDS)
        return f"{amount(*self.seconds.judges, SECONDS)} of waiting for LLMs; {self.elsewhere} is unknown"


def make_plan(
    settings: Settings,
    counts: Counts | None,
    *,
    rates: Rates | None = None,
    lost: str = "",
    shown: Shown | None = None,
    isolation: str = "",
    seeds: int = 1,
) -> Plan:
    """The plan of a run with these settings on this machine, or on one with those `rates`; of one for each of
    so many `seeds`. Raises UserError
    where such a run would be refused: too few prompts (`lost` says what became of others), no room for any
    beside an answer, no answer that can be imitated among those `shown`. `isolation` is told as it is."""
    grpo, endpoints = settings.grpo, settings.endpoints
    more = 0 if counts is None else resampled(grpo, counts)
    if counts is not None:
        require_enough(
            prompts_per_step=grpo.prompts_per_step, train=counts.train, held_out=counts.held_out, lost=lost
        )
    planned = [] if counts is None else calls_of_all(settings, counts, seeds)
    lines = tuple(Line(calls=c, dollars=dollars(c, endpoints)) for c in planned)
    found = _stages(settings, counts, rates, shown)
    service = passed(settings, counts, None if found.sft is None else found.sft.rows, seeds=seeds)
    paid = with_service(cost(planned, endpoints), settings, service)
    stages = [stage for stage in (found.sft, found.work) if stage is not None]
    before = None if found.sft is None else found.sft.seconds
    seconds = seconds_of_all(settings, counts, found.work, found.later, before, seeds)
    told = notes_on(
        [*lines, *service],
        paid,
        seconds,
        endpoints,
        keys=missing_keys([c.model for c in planned], endpoints, os.environ, [settings.engine.key_name]),
        written=counts is not None and counts.written,
        capped=settings.budget.dollars is not None,
    )
    return Plan(
        seeds=seeds,
        counts=counts,
        lines=lines,
        service=service,
        cost=paid,
        seconds=seconds,
        size=found.size,
        rates=found.rates,
        team=found.team,
        work=found.work,
        sft=found.sft,
        memory=_larger([stage.memory for stage in stages if stage.memory is not None]),
        disk=None if found.rates is None else seeds * sum(stage.disk for stage in stages),
        over=tuple(over_budget(settings.budget, paid, seconds, endpoints)),
        notes=(
            *([isolation] if isolation else []),
            *found.notes,
            *note_of(settings, seeds),
            *words_on_teacher(settings, counts, found.rates, seeds),
            *(() if counts is None else words_on(repeated(settings, counts))),
            *(() if counts is None else high_figures(planned, grpo, more=more, train=counts.train)),
            *told,
        ),
    )


def plan_of(settings: Settings, found: Survey, *, rates: Rates | None = None, seeds: int = 1) -> Plan:
    """The plan of a task that was looked at; see `make_plan`."""
    return make_plan(
        settings,
        found.counts,
        rates=rates,
        lost=found.lost,
        shown=found.shown,
        isolation=found.isolation,
        seeds=seeds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stages:
    """What the stages take of the machine, as far as the model is known; `later`, what a run under another
    seed does, after this one."""

    size: Size | None
    rates: Rates | None
    team: Team
    sft: Supervised | None
    work: Work | None
    later: Work | None
    notes: tuple[str, ...]


def _stages(settings: Settings, counts: Counts | None, rates: Rates | None, shown: Shown | None) -> _Stages:
    """Raises UserError where a stage would be refused."""
    notes: list[str] = []
    size = work = later = sft = None
    try:
        size = model_size(settings.model)
    except UnknownSize as error:
        if not at_service(settings.engine):
            notes.append(f"{error}: neither time nor memory of the machine can be told.")
    if size is not None:
        if counts is not None:
            limit = settings.rollout.max_tokens
            require_room(size.prompt_room(limit), limit, size.context)
        if not at_service(settings.engine) and rates is None:
            rates = _rates(settings, size, alone=counts is None)
            notes += filter(None, [machine.crowded(rates.device)])
    notes += words_about(settings.engine)
    if size is None or at_service(settings.engine):
        rates = None
    team = team_of(settings.engine, rates)
    if size is not None and rates is not None:
        settings, lines = _at_once(settings, size, rates, team, alone=counts is None)
        notes += lines
        notes += team.words(rates.device, None if counts is None else settings.grpo.prompts_per_step)
        if counts is not None:
            work = pace.estimate(settings, size, rates, counts, team)
            later = pace.estimate(settings, size, rates, counts, team, second=True)
    if settings.sft is not None and shown is not None:
        rows = count_rows(settings, settings.sft, shown, known=size is not None)
        notes += about_rows(settings.sft, rows)
        sft = Supervised(rows=rows)
        if size is not None and rates is not None:
            sft = supervised(settings, settings.sft, rows, size, rates, team)
    if size is not None and rates is not None:
        installed = machine.installed_memory(rates.device)
        notes += about_memory(sft, work, installed)
    return _Stages(
        size=size,
        rates=rates,
        team=team,
        sft=sft,
        work=work,
        later=later,
        notes=tuple(notes),
    )


def _rates(settings: Settings, size: Size, *, alone: bool) -> Rates:
    """This machine's, in the shapes of GRPO; of supervised fine-tuning where that is `alone`."""
    sft, grpo = settings.sft, settings.grpo
    if alone and sft is not None:
        return machine.measure(settings.sft_model, size, sampled=max(1, sft.examples), trained=sft.at_once)
    return machine.measure(
        settings.model,
        size,
        sampled=grpo.prompts_per_step * settings.rollout.group_size,
        trained=grpo.at_once,
    )


def _at_once(
    settings: Settings, size: Size, rates: Rates, team: Team, *, alone: bool
) -> tuple[Settings, tuple[str, ...]]:
    """As a run on this card would be: how many tokens it has go through the model at once, and the words."""
    if rates.device != "cuda":
        return settings, ()
    from refine_rl.training.grpo.setup import settled
    from refine_rl.training.memory import form_of, free_memory

    free = free_memory(rates.device) / team.on_one
    if free:
        free -= teacher_bytes(settings, form_of(rates))
    if not free:  # the rates are those of another machine
        return settings, ()
    found = settled(settings, size, device=rates.device, dtype=rates.dtype, free=free)
    return found, tuple(
        f"{name}.tokens_per_micro_batch: a run would take {after.at_once:,}, as many as this card's free "
        "memory holds by the high figure. A lower number needs less."
        for name, before, after in (("grpo", settings.grpo, found.grpo), ("sft", settings.sft, found.sft))
        if after is not None and before != after and not (alone and name == "grpo")
    )


def _larger(spans: Sequence[Span]) -> Span | None:
    """The one with the higher high figure."""
    return max(spans, key=lambda span: span[1], default=None)
