"""The training loop: choose prompts, sample groups, score, advantages, update, record.

It is handed a sampler, a scorer and a recorder, and knows neither endpoints nor files. A step whose
groups were recorded before (by a run that was stopped in between, or for a replay) is not sampled
again: its update is made from the record, to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from refine_rl.errors import GuardStop, Interrupted, MachineError
from refine_rl.policy.policy import Policy
from refine_rl.settings import Settings
from refine_rl.training import check, guards
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo import kl
from refine_rl.training.grpo.ahead import sampled_after
from refine_rl.training.grpo.collect import (
    Sampler,
    Scorer,
    UnderWay,
    choose_prompts,
    group_statistics,
    require_scores,
    with_advantages,
)
from refine_rl.training.grpo.collect import start as start_rollouts
from refine_rl.training.grpo.pool import Chosen, Seen, choose, resting
from refine_rl.training.grpo.resample import filled_up
from refine_rl.training.learn import (
    UpdateMetrics,
    kl_per_token,
    learning_rate,
    reference_logprobs,
    update,
)
from refine_rl.training.rows import rows
from refine_rl.types import Group, Prompt, StepMetrics, Trajectory


class Recorder(Protocol):
    """What the loop tells the outside, and what the outside may know already."""

    def recorded(self, step: int) -> Sequence[Group] | None:
        """The groups of this step, where an earlier process sampled and scored them."""

    def history(self) -> Sequence[StepMetrics]:
        """Metrics of all steps so far."""

    def seen(self) -> Sequence[Seen]:
        """What every group so far was worth, for the choice of prompts; step 0 is a probe."""

    def pool(self, step: int, chosen: Chosen) -> None: ...
    def groups(self, groups: Sequence[Group]) -> None: ...
    def metrics(self, metrics: StepMetrics) -> None: ...
    def warning(self, step: int, name: str, text: str) -> None: ...
    def note(self, step: int, name: str, text: str) -> None: ...
    def checkpoint(self, position: Position, *, best: bool) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with. `validate` gives the mean reward on the validation prompts; `top` is the
    highest reward there is (None where none means "solved"); `cost` says what
    scoring has cost in dollars since it was last asked (None where that is unknown, or nothing has a
    price); `pause` may raise Interrupted wherever it is called."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    sample: Sampler
    score: Scorer
    validate: Callable[[int], float] | None
    component_weights: Mapping[str, float]
    recorder: Recorder
    top: float | None
    cost: Callable[[], float | None]
    pause: Callable[[], None]
    began: float  # time.perf_counter() when this process took up the run; budget.hours counts from there


def train(prompts: Sequence[Prompt], parts: Parts, settings: Settings, start: Position) -> Position:
    """Trains from `start` to `grpo.steps`. Whatever stops it early, the recorder holds a checkpoint of
    the last whole step when the error leaves here."""
    position, recorder = start, parts.recorder
    # What an earlier process spent on steps that came after its last checkpoint.
    spent = start.seconds + sum(m.seconds["total"] for m in recorder.history() if m.step > start.step)
    flights: Flights = {}
    try:
        if start.kept < start.step:
            position = _keep(start, parts, settings, last=start.step == settings.grpo.steps)
        for step in range(start.step + 1, settings.grpo.steps + 1):
            parts.pause()
            past = [m for m in recorder.history() if m.step < step]
            if guards.at_the_top(past, parts.component_weights):
                why = f"Every answer earns the full reward: training ended after {position.step} steps."
                recorder.note(position.step, "done_early", why)
                position = _keep(position, parts, settings, last=True)
                break
            metrics = take_step(prompts, step, parts, settings, flights)
            position = replace(position, step=step, seconds=spent + time.perf_counter() - parts.began)
            if metrics is not None:
                recorder.metrics(metrics)
                for name, text in guards.warnings(recorder.history()).items():
                    recorder.warning(step, name, text)
                guards.stop(recorder.history(), settings)
            position = _keep(position, parts, settings, last=step == settings.grpo.steps)
            _require_budget(position, settings)
    except (GuardStop, Interrupted, MachineError):
        # With several updates a step, a step broken off may have moved the weights already; and where the
        # next step is sampled ahead, its rollouts belong to older weights. Then the last checkpoint and
        # the recorded groups lead to the same place.
        whole = settings.grpo.updates_per_step == 1 and not settings.ahead
        if position.step > start.step and whole:
            recorder.checkpoint(position, best=False)
        raise
    return position


@dataclass(frozen=True, kw_only=True)
class Flight:
    """A step's rollouts from their sampling until they are trained on. `under_way` is None where they are
    on record; `seen` compares sampler and trainer where the weights move before the step is trained."""

    under_way: UnderWay | None
    seen: torch.Tensor | None


Flights = dict[int, Flight]


def take_step(
    prompts: Sequence[Prompt], step: int, parts: Parts, settings: Settings, flights: Flights
) -> StepMetrics | None:
    """One step; None where its metrics were recorded before. `flights` holds what was sampled ahead."""
    settings = kl.at_step(settings, parts.recorder.history(), step)
    policy, g = parts.policy, settings.grpo
    began = time.perf_counter()
    flight = flights.pop(step, None) or _take_off(prompts, step, parts, settings)
    if step < g.steps and sampled_after(step + 1, settings) < step:
        flights[step + 1] = _take_off(prompts, step + 1, parts, settings, before=flight)
    sampled_at = time.perf_counter()
    sampled, sampling = None, 0.0
    if flight.under_way is not None:
        whole = flight.under_way.scored(parts.pause)
        sampled, sampling = filled_up(
            whole,
            prompts,
            step,
            settings,
            sample=parts.sample,
            score=parts.score,
            pause=parts.pause,
            resting=_resting(prompts, step, parts, settings),
        )
        scores = [s for _, _, group_scores in sampled for s in group_scores]
        require_scores(scores, settings.reward.max_missing, f"Step {step}")
    scored_at = time.perf_counter()

    members = [t for _, group, _ in sampled for t in group] if sampled else _members(flight, step, parts)
    references = reference_logprobs(policy, members, settings) if g.kl > 0 else {}
    if sampled is not None:
        groups: Sequence[Group] = with_advantages(
            sampled, step, settings, component_weights=parts.component_weights, references=references
        )
        parts.recorder.groups(groups)
    else:
        groups = parts.recorder.recorded(step) or []
    distance = _kl(policy, groups, references, settings)
    batch = rows(
        groups,
        loss=g.loss,
        max_tokens=settings.rollout.max_tokens,
        references=references if g.kl > 0 and g.kl_in == "loss" else None,
    )
    result = update(policy, parts.optimizer, batch, settings, step=step, seen=flight.seen, pause=parts.pause)
    seconds = {
        "sample": sampled_at - began + sampling,
        "score": scored_at - sampled_at - sampling,
        "train": time.perf_counter() - scored_at,
    }
    cost = parts.cost()
    if any(m.step == step for m in parts.recorder.history()):
        return None
    return _metrics(step, groups, result, distance, settings, seconds, cost)


def _take_off(
    prompts: Sequence[Prompt],
    step: int,
    parts: Parts,
    settings: Settings,
    *,
    before: Flight | None = None,
) -> Flight:
    """Samples a step and sends its groups to be scored, unless they are on record. `before` is the step
    before where that is still under way."""
    under_way = None
    if parts.recorder.recorded(step) is None:
        chosen = _choose(prompts, step, parts, settings, before)
        under_way = start_rollouts(chosen, step, sample=parts.sample, score=parts.score)
    flight = Flight(under_way=under_way, seen=None)
    if before is None:
        return flight
    # Compared now, while the weights are those that sampled.
    return replace(flight, seen=check.compare(parts.policy, _members(flight, step, parts), settings, step))


def _choose(
    prompts: Sequence[Prompt], step: int, parts: Parts, settings: Settings, before: Flight | None
) -> Sequence[Prompt]:
    per_step, seed = settings.grpo.prompts_per_step, settings.grpo.seed
    if settings.prompts.pool == "all":
        return choose_prompts(prompts, step, per_step, seed)
    seen = list(parts.recorder.seen())
    if before is not None and before.under_way is not None:  # not scored yet: a turn and no more
        seen += [Seen(step=step - 1, prompt_id=p.id, values=()) for p in before.under_way.prompts]
    chosen = choose(
        prompts,
        step,
        per_step,
        seed,
        seen,
        known=sampled_after(step, settings),
        told=sampled_after(step - 1, settings) if step > 1 else -1,
        top=parts.top,
    )
    parts.recorder.pool(step, chosen)
    return chosen.prompts


def _resting(prompts: Sequence[Prompt], step: int, parts: Parts, settings: Settings) -> set[str]:
    """The prompts that do not take the place of others in this step."""
    if settings.prompts.pool == "all" or not settings.grpo.resample:
        return set()
    return resting(prompts, step, settings.grpo.prompts_per_step, parts.recorder.seen())


def _members(flight: Flight, step: int, parts: Parts) -> list[Trajectory]:
    if flight.under_way is not None:
        return [t for group in flight.under_way.groups for t in group]
    return [t for group in parts.recorder.recorded(step) or [] for t in group.trajectories]


def _kl(
    policy: Policy,
    groups: Sequence[Group],
    references: Mapping[tuple[str, int], tuple[float, ...]],
    settings: Settings,
) -> float | None:
    """Mean KL to the reference in nats a token, measured before the update: over all completions where
    a KL term is on, else over a few, so that the drift is seen in any case."""
    members = [t for g in groups for t in g.trajectories]
    if not references:
        if not policy.adapter:
            return None
        # The first members of different groups: their prompts differ.
        members = [g.trajectories[0] for g in groups][: check.PROBE_ROWS]
        references = reference_logprobs(policy, members, settings)
    estimates = torch.cat(kl_per_token(members, references, settings.grpo.kl_estimator))
    return float(estimates.mean())


def _metrics(
    step: int,
    groups: Sequence[Group],
    result: UpdateMetrics,
    distance: float | None,
    settings: Settings,
    seconds: Mapping[str, float],
    cost: float | None,
) -> StepMetrics:
    total = sum(seconds.values())
    tokens = sum(t.completion_tokens for g in groups for t in g.trajectories)
    return StepMetrics(
        step=step,
        loss=result.loss,
        kl=distance,
        kl_coefficient=settings.grpo.kl,
        grad_norm=result.grad_norm,
        learning_rate=learning_rate(step, settings),
        seconds={**seconds, "total": total},
        tokens_per_second=tokens / total,
        cost_usd=cost,
        clip_share=result.clip_share,
        mismatch_mean=result.mismatch_mean,
        mismatch_max=result.mismatch_max,
        importance_mean=result.importance_mean,
        importance_max=result.importance_max,
        **group_statistics(groups),  # type: ignore[arg-type]
    )


def _keep(position: Position, parts: Parts, settings: Settings, *, last: bool) -> Position:
    """Validates and checkpoints where it is time to."""
    g, step = settings.grpo, position.step
    best = False
    if parts.validate is not None and g.validate_every and (step % g.validate_every == 0 or last):
        reward = _validated(step, parts, last=last)
        best = reward is not None and (position.best_reward is None or reward > position.best_reward)
        if best:
            position = replace(position, best_step=step, best_reward=reward)
    position = replace(position, kept=step)
    if best or last or step % g.checkpoint_every == 0:
        parts.recorder.checkpoint(position, best=best)
    return position


def _validated(step: int, parts: Parts, *, last: bool) -> float | None:
    """The mean reward on the validation prompts; None where too many of its scores are missing and training
    is over: then that costs a look and not the model."""
    assert parts.validate is not None
    try:
        return parts.validate(step)
    except GuardStop as stop:
        if not last or stop.guard != "missing":
            raise
        text = f"{stop.what}The checkpoint is chosen without this look."
        parts.recorder.warning(step, "validation_missing", text)
        return None


def _require_budget(position: Position, settings: Settings) -> None:
    hours = settings.budget.hours
    if hours is not None and position.seconds > hours * 3600 and position.step < settings.grpo.steps:
        raise GuardStop(
            "budget",
            f"Step {position.step}: the {hours:g} hours of budget.hours are used up.",
            "Raise budget.hours and go on with --resume.",
        )
