"""The whole plan: what is known, what is estimated, what exceeds the budget, what dominates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import indent

from refine_rl.llm.prices import price_advice
from refine_rl.plan import machine, pace
from refine_rl.plan.calls import STEPS, Calls, calls, resampled
from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import Rates, Size
from refine_rl.plan.money import Cost, Endpoints, cost, dollars, missing_keys
from refine_rl.plan.pace import Work
from refine_rl.plan.supervised import Rows, Supervised, count_rows, earliest, supervised
from refine_rl.plan.team import Team, team_of
from refine_rl.prompts.demonstrations import Shown
from refine_rl.prompts.fitting import require_enough, require_room
from refine_rl.settings import BudgetSettings, EndpointSettings, Settings, SFTSettings
from refine_rl.types import amounts as spans
from refine_rl.types.amounts import BYTES, COUNT, SECONDS, amount

CALL_SECONDS = 3.0  # of a judge's or reader's call
WRITING_SECONDS = 15.0  # of a call that writes prompts, a rubric or questions
OVERLAP = 1.15  # a step's time over the longer of machine and judges, where they work side by side
_WRITING = ("facets", "prompts", "system message", "rubric", "questions")
_TRAINING = ("training", "questions", "check of the questions", STEPS)

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Calls with what they cost; None where the price is unknown."""

    calls: Calls
    dollars: Span | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """How long the parts of a run take, low and high. `machine` and `total` are None where the model's size
    is unknown; `training` is `total` up to the end of training, as budget.hours counts."""

    machine: Span | None
    judges: Span
    training: Span | None
    total: Span | None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Plan:
    """What a run will take. Spans are (low, high). `counts` are those of the prompts, None for supervised
    fine-tuning alone; `sft` is that stage, None for a task without it; `memory` (the larger stage's, on each
    device) and `disk` (of both) are bytes; `team` are the processes that share the machine's work."""

    counts: Counts | None
    lines: tuple[Line, ...]
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
        return "\n".join(["Plan", *found, *(indent(text, "  ") for text in (*self.over, *self.notes))])

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
        if not self.lines:
            return "none to LLMs"
        found = [line.calls for line in self.lines]
        total = amount(sum(k.low for k in found), sum(k.high for k in found), COUNT)
        unknown = [f"the price of {', '.join(self.cost.unknown)} is unknown"] if self.cost.unknown else []
        known = any(line.dollars is not None for line in self.lines)
        spent = [spans.dollars(self.cost.low, self.cost.high)] if known else []
        return f"{total} to LLMs: {', and '.join([*spent, *unknown])}"

    def _time(self) -> str:
        if self.seconds.total is not None:
            return amount(*self.seconds.total, SECONDS)
        return f"{amount(*self.seconds.judges, SECONDS)} of waiting for LLMs; the machine's is unknown"


def make_plan(
    settings: Settings,
    counts: Counts | None,
    *,
    rates: Rates | None = None,
    lost: str = "",
    shown: Shown | None = None,
    isolation: str = "",
) -> Plan:
    """The plan of a run with these settings on this machine, or on one with those `rates`. Raises UserError
    where such a run would be refused: too few prompts (`lost` says what became of others), no room for any
    beside an answer, no answer that can be imitated among those `shown`. `isolation` is told as it is."""
    grpo, endpoints = settings.grpo, settings.endpoints
    if counts is not None:
        require_enough(
            prompts_per_step=grpo.prompts_per_step, train=counts.train, held_out=counts.held_out, lost=lost
        )
    planned = [] if counts is None else calls(settings, counts)
    lines = tuple(Line(calls=c, dollars=dollars(c, endpoints)) for c in planned)
    paid = cost(planned, endpoints)
    found = _stages(settings, counts, rates, shown)
    stages = [stage for stage in (found.sft, found.work) if stage is not None]
    before = None if found.sft is None else found.sft.seconds
    more = 0 if counts is None else resampled(grpo, counts)
    seconds = alone(before)
    if counts is not None:
        seconds = durations(
            planned,
            found.work,
            steps=grpo.steps,
            ahead=settings.ahead,
            endpoints=endpoints,
            waves=more,
            before=before or (0.0, 0.0),
        )
    told = _notes(
        lines,
        paid,
        seconds,
        endpoints,
        written=counts is not None and counts.written,
        capped=settings.budget.dollars is not None,
    )
    return Plan(
        counts=counts,
        lines=lines,
        cost=paid,
        seconds=seconds,
        size=found.size,
        rates=found.rates,
        team=found.team,
        work=found.work,
        sft=found.sft,
        memory=_larger([stage.memory for stage in stages if stage.memory is not None]),
        disk=None if found.size is None else sum(stage.disk for stage in stages),
        over=tuple(over_budget(settings.budget, paid, seconds, endpoints)),
        notes=(
            *([isolation] if isolation else []),
            *found.notes,
            *_high_figures(lines, more=more, steps=grpo.steps),
            *told,
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stages:
    """What the stages take of the machine, as far as the model is known."""

    size: Size | None
    rates: Rates | None
    team: Team
    sft: Supervised | None
    work: Work | None
    notes: tuple[str, ...]


def _stages(settings: Settings, counts: Counts | None, rates: Rates | None, shown: Shown | None) -> _Stages:
    """Raises UserError where a stage would be refused."""
    notes: list[str] = []
    size = work = sft = None
    try:
        size = machine.model_size(settings.model)
    except machine.UnknownSize as error:
        notes.append(f"{error}: neither time nor memory of the machine can be told.")
    if size is not None:
        if counts is not None:
            limit = settings.rollout.max_tokens
            require_room(size.prompt_room(limit), limit, size.context)
        rates = rates or _rates(settings, size, alone=counts is None)
    team = team_of(settings.engine, rates)
    if counts is not None:
        notes += team.idle(settings.grpo.prompts_per_step)
        if size is not None and rates is not None:
            work = pace.estimate(settings, size, rates, counts, team)
    if settings.sft is not None and shown is not None:
        rows = count_rows(settings, settings.sft, shown, known=size is not None)
        notes += _about_rows(settings.sft, rows)
        sft = Supervised(rows=rows)
        if size is not None and rates is not None:
            sft = supervised(settings, settings.sft, rows, size, rates, team)
    if size is not None and rates is not None:
        installed = machine.installed_memory(rates.device)
        notes += _memory(sft, work, installed)
    return _Stages(
        size=size,
        rates=rates if size is not None else None,
        team=team,
        sft=sft,
        work=work,
        notes=tuple(notes),
    )


def _rates(settings: Settings, size: Size, *, alone: bool) -> Rates:
    """This machine's, in the shapes of GRPO; of supervised fine-tuning where that is `alone`."""
    sft, grpo = settings.sft, settings.grpo
    if alone and sft is not None:
        return machine.measure(
            settings.sft_model, size, sampled=max(1, sft.examples), trained=sft.tokens_per_micro_batch
        )
    return machine.measure(
        settings.model,
        size,
        sampled=grpo.prompts_per_step * settings.rollout.group_size,
        trained=grpo.tokens_per_micro_batch,
    )


def _larger(spans: Sequence[Span]) -> Span | None:
    """The one with the higher high figure."""
    return max(spans, key=lambda span: span[1], default=None)


# -- time -----------------------------------------------------------------------------------------


def durations(
    planned: Sequence[Calls],
    work: Work | None,
    *,
    steps: int,
    ahead: bool,
    endpoints: Endpoints,
    waves: int = 0,
    before: Span = (0.0, 0.0),
) -> Seconds:
    """Machine and LLMs together: side by side in training where `steps` are sampled `ahead`, else after one
    another in the high figure. `waves`: times that a step may have to wait again, for groups in the place of
    others. `before`: the machine's seconds of supervised fine-tuning, with which training begins."""
    training = [c for c in planned if c.stage in _TRAINING]
    around = [c for c in planned if c.stage not in _TRAINING]
    judged = tuple(
        steps * _waiting(training, endpoints, which, rounds=steps, waves=which * waves) for which in (0, 1)
    )
    beside = tuple(_waiting(around, endpoints, which, rounds=1) for which in (0, 1))
    judges = (judged[0] + beside[0], judged[1] + beside[1])
    if work is None:
        return Seconds(machine=None, judges=judges, training=None, total=None)
    low, high = (steps * s for s in work.step)
    longer = max(high, judged[1])
    # The comparison comes after training; what else is evaluated is counted here as well.
    begun = (pace.START + before[0], pace.START + before[1])
    trained = (
        begun[0] + max(low, judged[0]),
        begun[1] + (OVERLAP * longer if ahead else high + judged[1]),
    )
    return Seconds(
        machine=(begun[0] + low + work.evaluation[0], begun[1] + high + work.evaluation[1]),
        judges=judges,
        training=trained,
        total=(
            trained[0] + max(work.evaluation[0], beside[0]),
            trained[1] + work.evaluation[1] + beside[1],
        ),
    )


def alone(sft: Span | None) -> Seconds:
    """Of supervised fine-tuning and nothing else."""
    whole = None if sft is None else (pace.START + sft[0], pace.START + sft[1])
    return Seconds(machine=whole, judges=(0.0, 0.0), training=whole, total=whole)


def _waiting(
    planned: Sequence[Calls], endpoints: Endpoints, which: int, *, rounds: int, waves: int = 0
) -> float:
    """Seconds of one of `rounds` equal shares of the calls: each endpoint works on as many at once as its
    `concurrency` allows, all endpoints side by side. `waves`: times that a share is cut, each part asked for
    after the one before."""
    busy: dict[str, float] = {}
    for c in planned:
        name = c.model.partition("/")[0]
        number = (c.low, c.high)[which] / rounds
        at_once = endpoints.get(name, EndpointSettings()).concurrency
        # In a round that is not full the last calls take as long as any.
        times = number / at_once if c.stage in _WRITING else -(-number // at_once) + waves
        busy[name] = busy.get(name, 0.0) + times * (WRITING_SECONDS if c.stage in _WRITING else CALL_SECONDS)
    return max(busy.values(), default=0.0)


# -- words ----------------------------------------------------------------------------------------


def over_budget(budget: BudgetSettings, paid: Cost, seconds: Seconds, endpoints: Endpoints) -> list[str]:
    """What the plan says about the caps of [budget]."""
    found = []
    cap = budget.dollars
    if cap is not None and paid.unknown:
        found.append(
            f"budget.dollars needs the price of every model. {price_advice(paid.unknown, endpoints)}"
        )
    spent = seconds.training
    lasts = None if spent is None else (spent[0] / 3600, spent[1] / 3600)
    for name, limit, span in (("dollars", cap, (paid.low, paid.high)), ("hours", budget.hours, lasts)):
        if limit is None or span is None or span[1] <= limit:
            continue
        how = "exceeds" if span[0] > limit else "may exceed"
        found.append(
            f"The plan {how} budget.{name} = {limit:g}: {span[0]:.3g} to {span[1]:.3g}. The run would stop "
            "there, saved, with exit code 3."
        )
    return found


def _memory(sft: Supervised | None, work: Work | None, installed: float) -> list[str]:
    """A word where a stage may not fit: about the one that takes most."""
    memory = _larger([s.memory for s in (sft, work) if s is not None and s.memory is not None])
    if memory is None or memory[1] <= installed:
        return []
    how = "does not fit" if memory[0] > installed else "may not fit"
    keys = (
        "sft.tokens_per_micro_batch or sft.max_tokens"
        if sft is not None and memory == sft.memory
        else "grpo.tokens_per_micro_batch, rollout.max_tokens or rollout.group_size"
    )
    return [
        f"The run {how} into this machine's {installed / 1e9:.1f} GB: lower {keys}, or take a smaller model."
    ]


def _about_rows(sft: SFTSettings, rows: Rows) -> Iterator[str]:
    """What became of rows, and what the figures of supervised fine-tuning count."""
    yield from rows.lines
    if rows.guessed:
        yield "The tokens of [sft] are guessed from characters: the model's tokenizer is not on this machine."
    if (first := earliest(sft, rows)) < rows.steps:
        yield f"sft.patience may end it from step {first} on: the low figures count so many steps."


def _high_figures(lines: Sequence[Line], *, more: int, steps: int) -> Iterator[str]:
    """What only the high figures count."""
    if more:
        yield (
            f"grpo.resample may add up to {more} groups to a step, {more * steps} in all: the high figures "
            "count every one of them, the low ones none."
        )
    if any(line.calls.stage == STEPS for line in lines):
        yield (
            "reward.steps.judges grade the answers of groups in which none is right: the high figures count "
            "every group, the low ones none."
        )


def _notes(
    lines: Sequence[Line], paid: Cost, seconds: Seconds, endpoints: Endpoints, *, written: bool, capped: bool
) -> list[str]:
    """What is missing, and what dominates; `written`: prompts that are still to be, `capped`: dollars."""
    notes = []
    if keys := missing_keys([line.calls.model for line in lines], endpoints, os.environ):
        notes.append(f"Not set yet: {', '.join(keys)}. The run needs it.")
    if paid.unknown and not capped:
        notes.append(
            f"Without a known price: {', '.join(paid.unknown)}. {price_advice(paid.unknown, endpoints)}"
        )
    if written:
        notes.append("The prompts are still to be written; their length is a guess.")
    dear = [(line.dollars[1], line.calls) for line in lines if line.dollars and line.dollars[1] > 0]
    if dear:
        most, which = max(dear, key=lambda pair: pair[0])
        known = "known dollars" if paid.unknown else "dollars"
        notes.append(f"{most / paid.high:.0%} of the {known} go to {which.model}, {which.stage}.")
    if seconds.machine is not None and lines:
        slower = "the calls" if seconds.judges[1] > seconds.machine[1] else "the machine"
        notes.append(f"Most of the time goes to {slower}.")
    return notes
