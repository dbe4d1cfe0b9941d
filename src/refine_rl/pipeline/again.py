"""What can be done again with a run: its evaluation, a single group, its model."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refine_rl.api import RewardFunction, require_functions
from refine_rl.errors import UserError, quoted
from refine_rl.evaluate.compare import compare, met_in_training
from refine_rl.evaluate.verdict import said_with, unexpected, updated
from refine_rl.pipeline.prepare import FirstLooks, exam_reward, hold_positions, require_same_model, run_policy
from refine_rl.pipeline.work import Work, rollouts
from refine_rl.policy.card import Trained, base_of, model_card
from refine_rl.policy.control import readable
from refine_rl.policy.files import as_other_files
from refine_rl.policy.load import DTYPES
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.prompts import load_all_prompts
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.judges.rubric import load_rubric
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import check_models, connect, spending
from refine_rl.settings import Settings
from refine_rl.settings.file import override
from refine_rl.training import checkpoint as checkpoints
from refine_rl.training.checkpoint import DamagedCheckpoint, Position, position_of
from refine_rl.training.grpo.ahead import sampled_after
from refine_rl.training.grpo.loop import Flights, Parts, take_step
from refine_rl.training.grpo.pool import Chosen, Seen
from refine_rl.training.grpo.resample import waves
from refine_rl.training.learn import make_optimizer
from refine_rl.types import Comparison, Group, Prompt, StepMetrics, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Which weights of a run: those in a checkpoint's folder, or (None) the model that it ended with.
    `tuned`: they are that model, so that the run's comparison is theirs."""

    checkpoint: Path | None
    trained: Trained
    tuned: bool


def choose_weights(folder: RunFolder, checkpoint: str | None = None) -> Weights:
    """The tuned model of a run, or its checkpoint `checkpoint`: "best" (on validation), "last" or a step.
    Raises UserError, which names what there is."""
    steps, ended = folder.checkpoints(), folder.model.is_dir()
    newest = _newest(folder, steps)
    taken = newest.step or max((m["step"] for m in folder.metrics()), default=0)
    best = newest.best_step if newest.best_step in steps else 0
    chosen = newest.best_step or taken
    if checkpoint is None and ended:
        trained = Trained(step=chosen, taken=taken, best=chosen == newest.best_step)
        return Weights(checkpoint=None, trained=trained, tuned=True)
    found = {"best": best, "last": max(steps, default=0)}.get(checkpoint or "") or _step(checkpoint or "")
    if found not in steps:
        raise UserError(_no_weights(folder, checkpoint, steps, best))
    trained = Trained(step=found, taken=taken, best=found == best)
    return Weights(checkpoint=folder.checkpoint(found), trained=trained, tuned=ended and found == chosen)


def _newest(folder: RunFolder, steps: Sequence[int]) -> Position:
    """The position of the newest checkpoint of which one can be read."""
    for step in reversed(steps):
        with contextlib.suppress(DamagedCheckpoint):  # a resume names it, and goes on from the one before
            return position_of(folder.checkpoint(step))
    return Position()


def _step(text: str) -> int:
    """A step's number; 0, which no checkpoint has, for what is none."""
    return int(text) if text.isdecimal() else 0


def _no_weights(folder: RunFolder, asked: str | None, steps: Sequence[int], best: int) -> str:
    """What there is in the place of the weights that were asked for, and how to get further."""
    resume = f"refine train --resume {quoted(folder.path)}"
    if not steps:
        first = folder.settings().grpo.checkpoint_every
        return (
            f"{folder.path} has no tuned model yet: {resume}. There is no checkpoint either; the first comes "
            f"after step {first}."
        )
    listed = ", ".join(map(str, steps)) + (f" (best on validation: {best})" if best else "")
    ways = "--checkpoint last" + (", --checkpoint best" if best else "") + f" or --checkpoint {steps[0]}"
    if asked is None:
        return (
            f"{folder.path} has no tuned model yet: {resume}. Its checkpoints so far: {listed}; to take one: "
            f"{ways}."
        )
    why = "no validation has chosen one yet" if asked == "best" else "there is none"
    return f"--checkpoint {asked}: {why}. The checkpoints of {folder.path}: {listed}; to take one: {ways}."


def open_model(folder: RunFolder, weights: Weights | None = None) -> tuple[Settings, Policy]:
    """The tuned model of a run, or other weights of it; its reference is the model before training."""
    weights = weights or choose_weights(folder)
    adapter_from = folder.model if weights.checkpoint is None else None
    try:
        policy = run_policy(folder, adapter_from=adapter_from, keep_reference=True)
    except UserError as error:
        if str(folder.model) not in str(error):
            raise
        again = f"refine train --resume {quoted(folder.path)}"
        raise UserError(f"{error} The run writes it again, from its best checkpoint: {again}") from error
    if weights.checkpoint is not None:
        checkpoints.load(weights.checkpoint, policy)
    return folder.settings(), policy


def export_model(
    folder: RunFolder, out: Path, *, merged: bool = False, dtype: str | None = None, weights: Weights
) -> float:
    """Writes weights of a run to the new folder `out`, with a card: as transformers and peft load them, or
    `merged` into one ordinary model, in `dtype` (without one, the run's). Returns the share of what training
    changed that rounding took. Raises UserError where `out` is there already."""
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder.")
    # Written aside first: under its name it is whole.
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    lost = 0.0
    try:
        if merged or weights.checkpoint is not None:
            settings, policy = open_model(folder, weights)
            if merged:
                lost = policy.save_merged(aside, None if dtype is None else DTYPES[dtype])
            else:
                policy.save(aside)
            (aside / "README.md").write_text(_card(folder, settings, weights, merged), encoding="utf-8")
        else:
            require_same_model(folder)
            if folder.model_changed():
                raise UserError(
                    f"{folder.model} is not as the run wrote it. The run writes it again, from its best "
                    f"checkpoint: refine train --resume {quoted(folder.path)}"
                )
            shutil.copytree(folder.model, aside)
        as_other_files(aside)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return lost


def _card(folder: RunFolder, settings: Settings, weights: Weights, merged: bool) -> str:
    comparison = folder.comparison() if weights.tuned else None
    return model_card(
        settings,
        comparison,
        trained=weights.trained,
        base=base_of(settings.model.name),
        merged=merged,
        changes=[str(change) for change in folder.changed_settings()],
        said=() if comparison is None else said_with(comparison),
    )


def evaluate_again(
    folder: RunFolder,
    *,
    source: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    name: str = "eval",
    judge: str | None = None,
    weights: Weights | None = None,
    overrides: Sequence[str] = (),
    functions: Sequence[RewardFunction] = (),
    observer: Observer | None = None,
    pause: Pause = never,
) -> tuple[Comparison, Path]:
    """Base against tuned with other draws (of `seed`; without one, of the run's plus 1), and on other prompts
    where `source` names some (prompts too close to a training prompt are left out), and by another judge
    ("ENDPOINT/MODEL") where one is named. `weights` may be other ones than those of the tuned model, also of
    a run that is not finished.
    Returns the comparison and its file. Calls to LLMs go into the run's ledger, under its cap; `overrides`
    may raise that, and say where LLMs answer, for this evaluation.

    `functions` are the reward functions that the run was given from Python. Raises UserError where they
    are others, or where the run or the prompts do not allow an evaluation.
    """
    observer = observer or Quiet()
    if not name or name != Path(name).name:
        raise UserError(f"--name {name}: it names a file, so it has no / in it.")
    require_functions(folder, functions)
    now = _overridden(folder.settings(), overrides)
    if seed is None:
        seed = now.grpo.seed + 1
    if source is None and seed == now.grpo.seed:
        raise UserError(f"--seed {seed} is the run's own, whose draws stand in its comparison: take another.")
    if judge is not None and not now.reward.judges:
        raise UserError(f"--judge {judge}: this run's reward has no judge that it could stand for.")
    with folder.writing():
        folder.repair()
        weights = weights or choose_weights(folder)
        if weights.checkpoint is not None:
            observer.note(f"tuned is the checkpoint after {weights.trained.text(now.grpo.steps)}")
        name = folder.free_evaluation(name)  # in here: nobody else writes one of that name now
        settings = folder.settings()
        settings = settings.model_copy(update={"budget": now.budget, "endpoints": now.endpoints})
        if samples is not None:
            evaluation = settings.evaluate.model_copy(update={"samples": samples})
            settings = settings.model_copy(update={"evaluate": evaluation})
        if judge is not None:
            settings = override(settings, [f'evaluate.judge="{judge}"'])
        connections = connect(settings, folder, observer.warning)
        check_models(settings, connections)
        shelf = folder.quiz_shelf()
        reward = build_reward(settings, functions, connections, load_rubric(settings), shelf)
        exam = exam_reward(settings, functions, connections, load_rubric(settings), shelf) or reward
        if source is None:
            prompts: Sequence[Prompt] = [p for p in folder.prompts() if p.split == "held_out"]
        else:
            prompts, dropped = load_all_prompts(settings, source, apart_from=folder.prompts())
            if dropped:
                observer.note(f"{dropped} prompts left out: too close to the run's own")
        reward.check_data(prompts)
        if exam.panel is not None:
            FirstLooks(
                folder=folder,
                task=settings.task,
                panels={"reward.judges" if exam is reward else "evaluate.judge": exam.panel},
                quiz=None,
                connections=connections,
                observer=observer,
                pause=pause,
            ).at_judges(prompts)
        observer.stage(f"Loading {settings.model.name}")
        _, policy = open_model(folder, weights)
        prompts, lines = readable(prompts, policy.encode, policy.control)
        for line in lines:
            observer.note(line)
        if not prompts:
            raise UserError("No prompt is left that this model can read.")
        hold_positions(settings, policy, [*folder.prompts(), *prompts], observer)
        purpose = Purpose(seed=seed, step=0, name="held_out")
        with ScoringLoop(reward, closing=connections.close) as scoring:
            work = Work(
                folder=folder,
                settings=settings,
                policy=policy,
                reward=reward,
                exam=exam,
                scoring=scoring,
                cost=spending(settings, connections.ledger),
                observer=observer,
                pause=pause,
                evaluation=name,
            )
            observer.stage(f"The base model answers {len(prompts)} prompts")
            with policy.reference() as untrained:
                before = replace(work, policy=untrained).answers(prompts, purpose)
            observer.stage(f"The tuned model answers {len(prompts)} prompts")
            after = work.answers(prompts, purpose)
            base, tuned = work.examined(before, after)
        comparison = compare(
            base,
            tuned,
            success=exam.success,
            resamples=settings.evaluate.bootstrap,
            seed=seed,
            updated=updated(folder.history()),
            seen=met_in_training(folder.prompts()),
        )
        for text in unexpected(comparison).values():
            observer.warning(text)
        return comparison, folder.save_evaluation(name, comparison)


def _overridden(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The settings with another cap or other endpoints; raises UserError for any other change."""
    after = override(settings, list(overrides))
    same = {"budget": after.budget, "endpoints": after.endpoints}
    if settings.model_copy(update=same) != after:
        raise UserError(
            "--set: an evaluation takes other settings of `budget` and `endpoints` alone; the rest is as the "
            "run had it."
        )
    return after


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """A member made again, and whether it is the recorded one, token by token."""

    prompt_id: str
    member: int
    same: bool
    tokens: int
    text: str
    recorded_text: str


def replay(
    folder: RunFolder, *, step: int, prompt_id: str | None = None, observer: Observer | None = None
) -> list[Replayed]:
    """Makes the groups of a step again: the weights of that step (from the nearest checkpoint, with the
    recorded groups of the steps since), then the same draws.

    The prompts of the step are sampled together, as they were (in waves, with grpo.resample): the rounding
    of a matrix product may depend on the size of the batch.
    """
    observer = observer or Quiet()
    settings = folder.settings()
    recorded = folder.recorded_steps()
    if step not in recorded:
        there = f"it has 1 to {max(recorded)}" if recorded else "it has none yet"
        raise UserError(f"{folder.path} has no step {step}; {there}.")
    ids = [g.prompt.id for g in recorded[step]]
    if prompt_id is not None and prompt_id not in ids:
        raise UserError(f"Step {step} has no group of {prompt_id!r}; it has {', '.join(ids)}.")
    if others := [change for change in folder.changed_settings() if step <= change.step]:
        raise UserError(
            f"Step {step} was made under other settings than those in force, and cannot be made again. "
            f"{'; '.join(map(str, others))}."
        )
    observer.stage(f"Loading {settings.model.name}")
    policy = run_policy(folder, keep_reference=settings.grpo.kl > 0)
    hold_positions(settings, policy, folder.prompts(), observer)
    optimizer = make_optimizer(policy, settings)
    start = Position()
    weights = sampled_after(step, settings)
    for before in [s for s in reversed(folder.checkpoints()) if s <= weights]:
        try:
            start = checkpoints.load(folder.checkpoint(before), policy, optimizer)
            break
        except DamagedCheckpoint as damaged:
            observer.warning(f"The checkpoint of step {before} is damaged: {damaged}")
    if others := [change for change in folder.changed_settings() if start.step < change.step]:
        raise UserError(
            f"Step {step} would have to be made from step {start.step} on, the nearest checkpoint (0: the "
            "start), and some of the steps since were made under other settings than those in force. "
            f"{'; '.join(map(str, others))}."
        )
    observer.stage(f"Making the weights of step {step} from step {start.step}")
    parts = Parts(
        policy=policy,
        optimizer=optimizer,
        sample=_not_needed,
        score=_not_needed,
        validate=None,
        component_weights={},
        top=None,
        recorder=_Record(recorded, folder.history()),
        cost=lambda: None,
        pause=never,
        began=0.0,
    )
    flights: Flights = {}
    for earlier in range(start.step + 1, weights + 1):
        take_step([], earlier, parts, settings, flights)
    observer.stage(f"Sampling step {step}")
    again = [
        group
        for wave in waves(recorded[step], settings.grpo.prompts_per_step)
        for group in rollouts(policy, [g.prompt for g in wave], step, settings)
    ]
    return [
        _compare(new, old)
        for group, trajectories in zip(recorded[step], again, strict=True)
        if prompt_id in (None, group.prompt.id)
        for new, old in zip(trajectories, group.trajectories, strict=True)
    ]


def _compare(new: Trajectory, old: Trajectory) -> Replayed:
    return Replayed(
        prompt_id=new.prompt_id,
        member=new.member,
        same=[s.token_ids for s in new.segments] == [s.token_ids for s in old.segments],
        tokens=new.completion_tokens,
        text=new.completion,
        recorded_text=old.completion,
    )


def _not_needed(*_: object) -> Any:
    raise AssertionError("every step of a replay is on record")


class _Record:
    """A recorder that only plays back."""

    def __init__(self, recorded: dict[int, list[Group]], history: Sequence[StepMetrics]) -> None:
        self._recorded, self._history = recorded, history

    def recorded(self, step: int) -> Sequence[Group] | None:
        return self._recorded[step]

    def history(self) -> Sequence[StepMetrics]:
        return self._history

    def seen(self) -> Sequence[Seen]:
        return []

    def pool(self, step: int, chosen: Chosen) -> None: ...
    def groups(self, groups: Sequence[Group]) -> None: ...
    def metrics(self, metrics: StepMetrics) -> None: ...
    def warning(self, step: int, name: str, text: str) -> None: ...
    def note(self, step: int, name: str, text: str) -> None: ...
    def checkpoint(self, position: Position, *, best: bool) -> None: ...
