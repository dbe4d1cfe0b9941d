"""What a plan says beside its figures: what exceeds the budget, what is missing, what dominates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from refine_rl.plan.calls import STEPS, Calls
from refine_rl.plan.durations import Seconds
from refine_rl.plan.money import Cost, Endpoints, advice
from refine_rl.plan.pace import Work
from refine_rl.plan.supervised import Rows, Supervised, earliest
from refine_rl.settings import BudgetSettings, GRPOSettings, SFTSettings

Span = tuple[float, float]


class Paid(Protocol):
    """A line of the plan: what somebody is paid for, and what it costs, None where that is unknown."""

    @property
    def name(self) -> str: ...
    @property
    def dollars(self) -> Span | None: ...


def over_budget(budget: BudgetSettings, paid: Cost, seconds: Seconds, endpoints: Endpoints) -> list[str]:
    """What the plan says about the caps of [budget]."""
    found = []
    cap = budget.dollars
    if cap is not None and paid.unknown:
        found.append(f"budget.dollars needs the price of every model. {advice(paid.unknown, endpoints)}")
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


def about_memory(sft: Supervised | None, work: Work | None, installed: float) -> list[str]:
    """A word where a stage may not fit: about the one that takes most."""
    found = [s.memory for s in (sft, work) if s is not None and s.memory is not None]
    memory = max(found, key=lambda span: span[1], default=None)
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


def about_rows(sft: SFTSettings, rows: Rows) -> Iterator[str]:
    """What became of rows, and what the figures of supervised fine-tuning count."""
    yield from rows.lines
    if rows.guessed:
        yield "The tokens of [sft] are guessed from characters: the model's tokenizer is not on this machine."
    if (first := earliest(sft, rows)) < rows.steps:
        yield f"sft.patience may end it from step {first} on: the low figures count so many steps."


def high_figures(planned: Sequence[Calls], grpo: GRPOSettings, *, more: int, train: int) -> Iterator[str]:
    """What only some of the figures count. A step may have `more` groups added, of `train` prompts."""
    steps, sampled = grpo.steps, grpo.candidates(train)
    if grpo.oversample > 1:
        few = f", no more, as there are {train} training prompts" if sampled == train else ""
        yield (
            f"grpo.oversample: a step samples {sampled} groups{few}, and has {grpo.prompts_per_step} of them "
            "scored: the calls count these alone."
        )
    if grpo.kl_stop is not None and grpo.updates_per_step > 1:
        yield (
            f"grpo.kl_stop may end a step's {grpo.updates_per_step} passes early: the low figures count one."
        )
    if more:
        yield (
            f"grpo.resample may add up to {more} groups to a step, {more * steps} in all: the high figures "
            "count every one of them, the low ones none."
        )
    if any(c.stage == STEPS for c in planned):
        yield (
            "reward.steps.judges grade the answers of groups in which none is right: the high figures count "
            "every group, the low ones none."
        )


def notes_on(
    lines: Sequence[Paid],
    paid: Cost,
    seconds: Seconds,
    endpoints: Endpoints,
    *,
    keys: Sequence[str],
    written: bool,
    capped: bool,
) -> list[str]:
    """What is missing, and what dominates; `written`: prompts that are still to be, `capped`: dollars."""
    notes = []
    if keys:
        notes.append(f"Not set yet: {', '.join(keys)}. The run needs it.")
    if paid.unknown and not capped:
        notes.append(f"Without a known price: {', '.join(paid.unknown)}. {advice(paid.unknown, endpoints)}")
    if written:
        notes.append("The prompts are still to be written; their length is a guess.")
    dear = [(line.dollars[1], line.name) for line in lines if line.dollars and line.dollars[1] > 0]
    if dear:
        most, which = max(dear)
        known = "known dollars" if paid.unknown else "dollars"
        notes.append(f"{most / paid.high:.0%} of the {known} go to {which}.")
    if seconds.machine is not None and lines:
        slower = "the calls" if seconds.judges[1] > seconds.machine[1] else "the machine"
        notes.append(f"Most of the time goes to {slower}.")
    return notes
