"""Going on with a run: from which checkpoint, with which settings and functions."""

from __future__ import annotations

from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.pipeline.given import NOTHING, Given, require_given
from refine_rl.progress import Observer, Quiet
from refine_rl.run import RunFolder
from refine_rl.run.changes import changes_between
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.settings.file import override
from refine_rl.training import checkpoint
from refine_rl.training.checkpoint import DamagedCheckpoint, Position
from refine_rl.types import count_of


def reopen(
    path: Path,
    overrides: list[str],
    from_step: int | None = None,
    *,
    given: Given = NOTHING,
    observer: Observer | None = None,
) -> RunFolder:
    """The run to go on with: gone back to the checkpoint of `from_step` where one is named, and with
    `overrides` put into its settings where they leave base and tuned comparable. `given` is the code from
    Python that it was started with.

    New settings count from the newest checkpoint on: steps recorded after it were made under the old
    ones, and are made anew, unless only `budget`, `endpoints`, `track` and how an engine is reached are
    other ones (`with_same_results`). Raises UserError where that cannot be, or where other code was given.
    """
    folder = RunFolder.open(path)
    if folder.config.kind() == "sft":
        raise UserError(f"{path} is a run of supervised fine-tuning. Go on with it: {folder.resume}")
    require_given(folder, given)
    if not overrides and from_step is None:
        return folder
    before = folder.settings()
    after = override(before, overrides)
    if folder.outcomes("tuned") is not None:
        if from_step is None and before.model_copy(update={"track": after.track}) == after:
            folder.config.save(after)  # what is done can still be shown elsewhere
            return folder
        raise UserError(f"{path}: training is done and the held-out prompts are read; start a new run.")
    for key, value in _fixed(before).items():
        if _fixed(after)[key] != value:
            raise UserError(
                f"--set {_named(key, before, after)}: this cannot change within a run, because base and "
                "tuned would not be measured alike. Start a new run with it."
            )
    with folder.writing():
        if from_step is None:
            folder.repair()
        if from_step is None and with_same_results(before, after):
            folder.change(before, after, folder.recorded_to())
            return folder
        to = newest_whole(folder, Journal(folder, observer or Quiet())) if from_step is None else from_step
        if to in folder.checkpoints() and after.grpo.steps < to:
            raise UserError(f"--set grpo.steps={after.grpo.steps}: {path} has {to} steps already.")
        folder.rewind(to)
        if from_step is not None:
            folder.repair()  # what was damaged in the part that is forgotten does no harm
        folder.change(before, after, to)
    return folder


def with_same_results(before: Settings, after: Settings) -> bool:
    """Whether a run's steps are the same under both: no result depends on a cap, on where LLMs and the
    engine's server are, how they are asked and what they take. On the number of processes it depends by
    rounding alone, which adds up sums in another order (with dropout, which each process draws for itself, by
    more)."""
    engine, reached = before.engine, ["timeout"]
    if engine.served:
        reached += ["base_url", "key_env", "adapter_folder", "concurrency", "prices"]
    elif (engine.kind == "processes" or engine.processes > 1) and not before.model.dropout:
        reached += ["processes"]
    engine = engine.model_copy(update={name: getattr(after.engine, name) for name in reached})
    same = {"budget": after.budget, "endpoints": after.endpoints, "engine": engine, "track": after.track}
    return before.model_copy(update=same) == after


def reopen_sft(
    path: Path,
    overrides: list[str],
    from_step: int | None = None,
    *,
    steps: int | None = None,
    observer: Observer | None = None,
) -> RunFolder:
    """`reopen` for a run of supervised fine-tuning, with so many `steps` where they are given. One that is
    finished may go on as well, to more steps: its model is written anew. Raises UserError where the rows or
    the model would be others."""
    folder = RunFolder.open(path)
    if folder.config.kind() != "sft":
        raise UserError(f"{path} is no run of `refine sft`. Go on with it: {folder.resume}")
    if not overrides and from_step is None and steps is None:
        return folder
    before = folder.settings()
    after = override(before, overrides).with_sft_steps(steps)
    for key, value in _fixed_in_sft(before).items():
        if _fixed_in_sft(after)[key] != value:
            raise UserError(
                f"--set {_named(key, before, after)}: this cannot change within a run, whose steps follow "
                "from it. Start a new run with it."
            )
    with folder.writing():
        if from_step is None:
            folder.repair()
            if before.model_copy(update={"budget": after.budget, "track": after.track}) == after:
                folder.change(before, after, folder.recorded_to())
                return folder
        journal = Journal(folder, observer or Quiet())
        to = newest_whole(folder, journal) if from_step is None else from_step
        _require_steps_left(folder, before, after, to)
        folder.rewind(to)
        if from_step is not None:
            folder.repair()
        folder.change(before, after, to)
    return folder


def _require_steps_left(folder: RunFolder, before: Settings, after: Settings, to: int) -> None:
    """Raises UserError where no step is left behind `to` that other settings could be for: they would stand
    on record as those that the model was made with. (How many steps other `epochs` are is known later.)"""
    assert before.sft is not None
    assert after.sft is not None
    steps = after.sft.steps
    if steps is None and (before.sft.steps, before.sft.epochs) == (None, after.sft.epochs):
        steps = folder.planned_steps()
    if to and steps is not None and steps <= to:
        raise UserError(
            f"{folder.path} has {count_of(to, 'step')} already, and would end after {steps}: nothing would "
            "be learned under other settings. Ask for more (--steps), or go back (--from-step)."
        )


def _named(key: str, before: Settings, after: Settings) -> str:
    """The setting in `key`, which may be a whole section, that is another one."""
    changed = (change.key for change in changes_between(before, after, 0))
    return next((name for name in changed if name == key or name.startswith(f"{key}.")), key)


def _fixed_in_sft(settings: Settings) -> dict[str, object]:
    """What the rows, their order and the weights of a run of supervised fine-tuning depend on."""
    rows = ("data", "prompt", "answer", "messages", "system", "train_on", "max_tokens", "validation", "seed")
    own = {} if settings.sft is None else settings.sft.model_dump(include={*rows, "batch_tokens", "adapter"})
    return {"model": settings.model, **{f"sft.{key}": value for key, value in own.items()}}


def _fixed(settings: Settings) -> dict[str, object]:
    """What the run's prompts, its scores so far and its randomness depend on."""
    quiz = settings.reward.quiz
    not_measured_by = {"anchors", "anchor_prompts", "shrink", "max_tokens", "corrections"}
    return {
        **{f"judge.{k}": v for k, v in settings.judge.model_dump(exclude=not_measured_by).items()},
        "writer.model": settings.writer.model if quiz and not quiz.writer else "",
        "evaluate.judge": settings.evaluate.judge,
        "evaluate.rubric": settings.evaluate.rubric,
        "evaluate.on_drift": settings.evaluate.on_drift == "rollback",  # what chooses the checkpoint
        "task": settings.task,
        "model": settings.model,
        "prompts": settings.prompts,
        "sft": settings.sft,
        "reward": settings.reward.model_copy(update={"max_missing": 0.0, "timeout": 1.0}),
        "rollout.max_tokens": settings.rollout.max_tokens,
        "evaluate.samples": settings.evaluate.samples,
        "evaluate.reference": settings.evaluate.reference,
        "grpo.seed": settings.grpo.seed,
    }


def newest_whole(run: RunFolder, journal: Journal) -> int:
    """The step of the newest checkpoint from which the run can go on; 0 where that is the start.

    What is damaged is named and set aside. A checkpoint serves only where the best one that it names is
    whole too, and the record reaches as far as it does: the steps after an earlier one are made again from
    the record, to the same bits, and bring back what is missing.
    """
    positions: dict[int, Position] = {}
    for step in run.checkpoints():
        try:
            positions[step] = checkpoint.check(run.checkpoint(step))
        except DamagedCheckpoint as damaged:
            aside = run.set_aside(step)
            text = (
                f"The checkpoint of step {step} is damaged: {damaged} It was set aside as {aside.name}, and "
                "training goes on from the one before; the steps since are made again from the record."
            )
            journal.warning("damaged_checkpoint", text, step)
    reached = run.recorded_to()
    usable = [
        step
        for step, position in positions.items()
        if step <= reached and (not position.best_step or position.best_step in positions)
    ]
    newest = max(usable, default=0)
    changed = max((change.step for change in run.changed_settings()), default=0)
    if newest < min(changed, reached):
        raise UserError(
            f"{run.path}: the newest checkpoint that can be used is that of step {newest}, but the steps up "
            f"to {changed} were made under other settings, and cannot be made again from the record. Train "
            f"them anew: {run.config.resume(step=newest)}"
        )
    return newest
