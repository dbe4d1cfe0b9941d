"""A step's groups made again, to the token; or where a server drew them, held against the weights of then."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from refine_rl.engines.local import LocalEngine
from refine_rl.envs.stage import stage_of
from refine_rl.errors import UserError
from refine_rl.evaluate.compare import dialogue_of
from refine_rl.pipeline.counting import sampled
from refine_rl.pipeline.model import hold_positions, run_policy
from refine_rl.pipeline.record import selections
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer, Quiet, count
from refine_rl.report.dialogue import told
from refine_rl.run import RunFolder
from refine_rl.run.changes import NOT_SET, Change
from refine_rl.settings import Settings
from refine_rl.training.check import difference
from refine_rl.training.checkpoint import DamagedCheckpoint, Position
from refine_rl.training.grpo.resample import waves
from refine_rl.training.grpo.setup import distance_of, learn_of, learner_of, play_of, schedule_of
from refine_rl.training.local import LocalLearner
from refine_rl.types import Group, Prompt, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """A member made again, and whether it is the recorded one, token by token. Of one that a server drew,
    `apart` is by how many nats a token its recorded log-probs differ from those of the weights that sampled
    it; `same`: by no more than the step's own check saw."""

    prompt_id: str
    prompt: str
    member: int
    same: bool
    tokens: int
    text: str
    recorded_text: str
    apart: float | None = None


def replay(
    folder: RunFolder, *, step: int, prompt_id: str | None = None, observer: Observer | None = None
) -> list[Replayed]:
    """Makes the groups of a step again: the weights of that step (from the nearest checkpoint, with the
    recorded groups of the steps since), then the same draws. What a server drew, for itself, cannot be drawn
    again: there the log-probs are compared.

    The prompts of the step are sampled together, as they were (in waves, with grpo.resample): the rounding
    of a matrix product may depend on the size of the batch.
    """
    if folder.config.kind() == "sft":
        raise UserError(
            f"{folder.path} is a run of supervised fine-tuning: it sampled nothing that could be made again. "
            "To make its steps again, from the start or a checkpoint: "
            f"{folder.config.resume(step=0)}"
        )
    observer = observer or Quiet()
    settings = folder.settings()
    recorded = folder.recorded_steps()
    _require_replayable(folder, recorded, step, prompt_id)
    stage = stage_of(settings.rollout, settings.folder)
    observer.stage(f"Loading {settings.model.called}")
    policy = run_policy(folder, keep_reference=settings.grpo.kl > 0)
    hold_positions(settings.rollout, LocalEngine(policy), folder.prompts(), observer)
    _to_weights_of(step, folder, settings, policy, recorded, observer)
    chosen = [g for g in recorded[step] if prompt_id in (None, g.prompt.id)]
    if settings.engine.served:
        observer.stage(f"Comparing the log-probs of step {step}")
        limit = _limit(folder, settings, policy, step)
        return [r for group in chosen for r in _held_against(policy, group, settings, limit)]
    observer.stage(f"Sampling step {step}")
    play, again = play_of(settings, policy, stage=stage), []
    for wave, scored in _together(folder, recorded[step], settings.grpo.prompts_per_step):
        played = play(wave, step)
        groups = dict(sampled(played, len(wave), partial(count, observer, "groups sampled")))
        again += [groups[place] for place, prompt in enumerate(wave) if prompt.id in scored]
    return [
        _compare(new, old, group.prompt)
        for group, trajectories in zip(recorded[step], again, strict=True)
        if prompt_id in (None, group.prompt.id)
        for new, old in zip(trajectories, group.trajectories, strict=True)
    ]


def _together(
    folder: RunFolder, groups: Sequence[Group], per_step: int
) -> list[tuple[Sequence[Prompt], Collection[str]]]:
    """A step's prompts as they were sampled together, and the ids of those whose groups are on record."""
    selection = selections(folder).get(groups[0].step)
    if selection is not None:
        return [(selection.prompts, selection.scored)]
    prompts = [[g.prompt for g in wave] for wave in waves(groups, per_step)]
    return [(wave, {p.id for p in wave}) for wave in prompts]


def _require_replayable(
    folder: RunFolder, recorded: dict[int, list[Group]], step: int, prompt_id: str | None
) -> None:
    """Raises UserError where the step or the prompt is not on record, or its settings are others now."""
    if folder.settings().engine.kind == "tinker":
        raise UserError(
            f"{folder.path} was sampled and trained by a service, which keeps its weights and draws for "
            "itself: nothing can be made again here. What it drew stands in the run's groups."
        )
    if step not in recorded:
        there = f"it has 1 to {max(recorded)}" if recorded else "it has none yet"
        raise UserError(f"{folder.path} has no step {step}; {there}.")
    ids = [g.prompt.id for g in recorded[step]]
    if prompt_id is not None and prompt_id not in ids:
        raise UserError(f"Step {step} has no group of {prompt_id!r}; it has {', '.join(ids)}.")
    if others := [change for change in _others(folder) if step <= change.step]:
        raise UserError(
            f"Step {step} was made under other settings than those in force, and cannot be made again. "
            f"{'; '.join(map(str, others))}."
        )


def _to_weights_of(
    step: int,
    folder: RunFolder,
    settings: Settings,
    policy: Policy,
    recorded: dict[int, list[Group]],
    observer: Observer,
) -> None:
    """Gives the policy the weights that sampled a step."""
    learner, schedule = learner_of(settings, policy), schedule_of(settings)
    if settings.engine.served:  # it was held against the server's own tolerance when it was sampled
        learner.check = replace(learner.check, allowed=math.inf)
    weights = schedule.sampled_after(step)
    start = _nearest(folder, learner, weights, observer)
    if others := [change for change in _others(folder) if start.step < change.step]:
        raise UserError(
            f"Step {step} would have to be made from step {start.step} on, the nearest checkpoint (0: the "
            "start), and some of the steps since were made under other settings than those in force. "
            f"{'; '.join(map(str, others))}."
        )
    observer.stage(f"Making the weights of step {step} from step {start.step}")
    history = folder.history()
    distance = distance_of(settings, policy, lambda: history)
    seen = None
    for earlier in range(start.step + 1, weights + 1):
        ahead = None
        if earlier < weights and schedule.sampled_after(earlier + 1) < earlier:
            # Compared now, while the weights are those that sampled.
            following = [t for g in recorded[earlier + 1] for t in g.trajectories]
            ahead = learner.check.compare(following, earlier + 1)
        learn = learn_of(_as_of(folder, settings, earlier), learner, distance, recorded=recorded.get)
        learn(recorded[earlier], earlier, seen=seen)
        count(observer, "steps made again", earlier - start.step, weights - start.step)
        seen = ahead


_RATE = "grpo.learning_rate"


def _others(folder: RunFolder) -> list[Change]:
    """The changes of settings that a replay cannot follow: all but those of the learning rate."""
    return [change for change in folder.changed_settings() if change.key != _RATE]


def _as_of(folder: RunFolder, settings: Settings, step: int) -> Settings:
    """The settings with the learning rate that a step was made with."""
    later = [c for c in folder.changed_settings() if c.key == _RATE and step <= c.step]
    if not later:
        return settings
    old = min(later, key=lambda change: change.step).old
    rate = None if old == NOT_SET else float(old)
    return settings.model_copy(update={"grpo": settings.grpo.model_copy(update={"learning_rate": rate})})


def _nearest(folder: RunFolder, learner: LocalLearner, weights: int, observer: Observer) -> Position:
    """The newest checkpoint from which those weights can be made, loaded."""
    for before in [s for s in reversed(folder.checkpoints()) if s <= weights]:
        try:
            return learner.load(folder.checkpoint(before))
        except DamagedCheckpoint as damaged:
            observer.warning(f"The checkpoint of step {before} is damaged: {damaged}")
    return Position()


def _limit(folder: RunFolder, settings: Settings, policy: Policy, step: int) -> float:
    """The mean difference of a member's log-probs that is let through: twice the largest of a single token
    that the step saw."""
    seen = next((m.mismatch_max for m in folder.history() if m.step == step), None)
    return max(policy.tolerance, settings.grpo.mismatch_tolerance or 0.0, 2 * (seen or 0.0))


def _held_against(policy: Policy, group: Group, settings: Settings, limit: float) -> list[Replayed]:
    """The members of a recorded group, beside the log-probs that these weights give their tokens."""
    found = []
    for member in group.trajectories:
        apart = float(difference(policy, [member], settings.rollout.temperature).mean())
        text = _text(member, group.prompt)
        found.append(
            Replayed(
                prompt_id=member.prompt_id,
                prompt=group.prompt.text,
                member=member.member,
                same=apart <= limit,
                tokens=member.completion_tokens,
                text=text,
                recorded_text=text,
                apart=apart,
            )
        )
    return found


def _compare(new: Trajectory, old: Trajectory, prompt: Prompt) -> Replayed:
    return Replayed(
        prompt_id=new.prompt_id,
        prompt=prompt.text,
        member=new.member,
        same=[s.token_ids for s in new.segments] == [s.token_ids for s in old.segments],
        tokens=new.completion_tokens,
        text=_text(new, prompt),
        recorded_text=_text(old, prompt),
    )


def _text(trajectory: Trajectory, prompt: Prompt) -> str:
    """What was answered; in a world of several turns, all that was said behind the prompt."""
    dialogue = dialogue_of(trajectory, prompt)
    return trajectory.completion if dialogue is None else told(dialogue)
