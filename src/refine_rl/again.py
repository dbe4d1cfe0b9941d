"""What can be done again with a run: its evaluation, a single group, its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refine_rl.api import RewardFunction, require_functions
from refine_rl.config import Settings
from refine_rl.config_file import override
from refine_rl.connecting import check_models, connect, spending
from refine_rl.errors import UserError, quoted
from refine_rl.evaluate.compare import compare
from refine_rl.grpo import checkpoint
from refine_rl.grpo.ahead import sampled_after
from refine_rl.grpo.checkpoint import DamagedCheckpoint, Position
from refine_rl.grpo.pool import Chosen, Seen
from refine_rl.grpo.resample import waves
from refine_rl.grpo.train import Flights, Parts, take_step
from refine_rl.grpo.update import make_optimizer
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose
from refine_rl.preparing import exam_reward
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.prompts import load_all_prompts
from refine_rl.rewards.combine import build_reward
from refine_rl.rewards.rubric import load_rubric
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.runs import RunFolder
from refine_rl.stages import Work, rollouts
from refine_rl.types import Comparison, Group, Prompt, StepMetrics, Trajectory


def open_model(folder: RunFolder) -> tuple[Settings, Policy]:
    """The tuned model of a run; its reference is the model before training."""
    if not folder.model.is_dir():
        raise UserError(f"{folder.path} has no tuned model yet: refine train --resume {quoted(folder.path)}")
    settings = folder.settings()
    return settings, load_policy(
        settings.model, seed=settings.grpo.seed, adapter_from=folder.model, keep_reference=True
    )


def evaluate_again(
    folder: RunFolder,
    *,
    source: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    name: str = "eval",
    judge: str | None = None,
    overrides: Sequence[str] = (),
    functions: Sequence[RewardFunction] = (),
    observer: Observer | None = None,
    pause: Pause = never,
) -> tuple[Comparison, Path]:
    """Base against tuned with other draws (of `seed`; without one, of the run's plus 1), and on other prompts
    where `source` names some (prompts too close to a training prompt are left out), and by another judge
    ("ENDPOINT/MODEL") where one is named.
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
        name = folder.free_evaluation(name)  # in here: nobody else writes one of that name now
        settings, policy = open_model(folder)
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
            )
            observer.stage(f"The base model answers {len(prompts)} prompts")
            with policy.reference() as untrained:
                before = replace(work, policy=untrained).answers(prompts, purpose)
            observer.stage(f"The tuned model answers {len(prompts)} prompts")
            after = work.answers(prompts, purpose)
            base, tuned = work.examined(before, after)
        comparison = compare(
            base, tuned, success=exam.success, resamples=settings.evaluate.bootstrap, seed=seed
        )
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
        last = max(recorded, default=0)
        raise UserError(f"{folder.path} has no step {step}; it has 1 to {last}.")
    ids = [g.prompt.id for g in recorded[step]]
    if prompt_id is not None and prompt_id not in ids:
        raise UserError(f"Step {step} has no group of {prompt_id!r}; it has {', '.join(ids)}.")
    if others := [change for change in folder.changed_settings() if step <= change.step]:
        raise UserError(
            f"Step {step} was made under other settings than those in force, and cannot be made again. "
            f"{'; '.join(map(str, others))}."
        )
    policy = load_policy(settings.model, seed=settings.grpo.seed, keep_reference=settings.grpo.kl > 0)
    optimizer = make_optimizer(policy, settings)
    start = Position()
    weights = sampled_after(step, settings)
    for before in [s for s in reversed(folder.checkpoints()) if s <= weights]:
        try:
            start = checkpoint.load(folder.checkpoint(before), policy, optimizer)
            break
        except DamagedCheckpoint as damaged:
            observer.warning(f"The checkpoint of step {before} is damaged: {damaged}")
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
