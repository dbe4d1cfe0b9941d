"""Supervised fine-tuning in a run's folder: from answers to imitate to a tuned model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from refine_rl.errors import quoted
from refine_rl.pipeline.model import require_same_model
from refine_rl.pipeline.on_record import on_record
from refine_rl.pipeline.renewal import RenewedReport
from refine_rl.pipeline.resume import newest_whole
from refine_rl.pipeline.sft_examples import answer_after, answer_before
from refine_rl.pipeline.sft_outcome import Losses, losses_of, sft_card
from refine_rl.pipeline.sft_prepare import Ready, prepare_sft
from refine_rl.pipeline.sft_record import SFTRecord
from refine_rl.pipeline.tracked import tracked
from refine_rl.policy.card import Trained
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position
from refine_rl.training.learner import LearnerConfig
from refine_rl.training.rate import Rate
from refine_rl.training.sft.keep import Keeper
from refine_rl.training.sft.learn import Learn, mean_loss
from refine_rl.training.sft.loop import train
from refine_rl.types import Prompt


def run(
    folder: RunFolder,
    *,
    observer: Observer | None = None,
    pause: Pause = never,
    held_out: Sequence[Prompt] = (),
    part_of: str = "",
) -> Losses:
    """Everything, from wherever the folder stands: rows, training, model, report. Rows that ask what a prompt
    of `held_out` asks are left out. `part_of` is the name of the run that begins with this one.

    A new folder (of the kind "sft") starts at the beginning; one that was stopped goes on exactly where it
    was. Whatever ends it early, the folder can be resumed, and after a guard the report is there.
    """
    began = time.perf_counter()
    journal = Journal(folder, observer or Quiet(), RenewedReport(folder))
    with folder.writing(), tracked(folder, journal, part_of=part_of), on_record(folder, journal):
        folder.repair()
        if folder.finished():
            return _finished(folder, journal)
        with folder.timed("prepare"):
            ready = prepare_sft(folder, journal, held_out, pause)
        with closing(ready.engine):
            answer_before(ready, journal, pause)
            position = _train(ready, journal, pause, began)
            if position.best_step not in (0, position.step):
                journal.stage(f"Back to step {position.best_step}, the best on the validation rows")
                ready.engine.take(folder.checkpoint(position.best_step))
            answer_after(ready, journal, pause)
            losses = losses_of(folder)
            _write_model(ready, losses, position)
        folder.end(str(losses), position.step)
        journal.stage("Writing the report")
        folder.save_report(render(folder))
    return losses


def begin_with_sft(
    folder: RunFolder, settings: Settings, journal: Journal, pause: Pause, apart_from: Sequence[Prompt]
) -> None:
    """The supervised fine-tuning with which a run begins, in a run's folder within its own; from wherever
    that stands. Rows that ask what a prompt of `apart_from` asks are left out."""
    own = folder.sft
    if own.begun:
        own.config.save(settings)  # the budget may be another one
    else:
        RunFolder.create(own.path, settings, kind="sft")
    losses = run(own, observer=journal.observer, pause=pause, held_out=apart_from, part_of=folder.name)
    journal.note("sft", f"supervised fine-tuning: {losses}", once=True)


def _finished(folder: RunFolder, journal: Journal) -> Losses:
    require_same_model(folder, record=True)
    journal.observer.note(
        f"{folder.path} is finished: nothing is left to train. To talk to it: "
        f"refine chat {quoted(folder.path)}"
    )
    if not folder.report.is_file():
        folder.save_report(render(folder))
    return losses_of(folder)


def _train(ready: Ready, journal: Journal, pause: Pause, began: float) -> Position:
    """Trains to the last step, from the newest checkpoint on (from the start where there is none)."""
    folder, sft = ready.folder, ready.sft
    learner = ready.engine.learner(
        LearnerConfig(
            optimizer=sft.optimizer,
            weight_decay=sft.weight_decay,
            max_grad_norm=sft.max_grad_norm,
            tokens=sft.at_once,
            dropout=ready.settings.sft_model.dropout,
            seed=sft.seed,
            table="sft",
        )
    )
    start = Position()
    if step := newest_whole(folder, journal):
        start = learner.load(folder.checkpoint(step))
    steps, looks = ready.steps, bool(ready.validation)
    if start.step < steps:
        journal.stage(f"Training, steps {start.step + 1} to {steps}")
        journal.observer.count("steps", start.step, steps)
    tenth = math.ceil(steps / 10)
    learn = Learn(
        learner=learner,
        rows=ready.rows,
        order=ready.order,
        rate=Rate(
            peak=ready.settings.sft_learning_rate,
            steps=steps,
            schedule=sft.schedule,
            warmup_steps=round(sft.warmup * steps),
        ),
        pause=pause,
    )
    record = SFTRecord(folder, learner, journal, steps=steps, keep_newest=sft.keep_checkpoints)
    if looks and 0 not in record.looks():
        with folder.timed("validation", 0):
            loss = _validation_loss(ready)
        record.look(0, loss)
    keep = Keeper(
        record=record,
        start=start,
        steps=steps,
        checkpoint_every=sft.checkpoint_every or tenth,
        validate=(lambda: _validation_loss(ready)) if looks else None,
        validate_every=tenth if sft.validate_every is None else sft.validate_every,
        patience=sft.patience,
        hours=ready.settings.budget.hours,
        whole=lambda: learner.whole,
    )
    # What an earlier process spent on steps that came after its last checkpoint counts.
    lost = sum(m.seconds["total"] for m in folder.sft_history() if m.step > start.step)
    spent = start.seconds + lost - began
    return train(learn, keep, clock=lambda: spent + time.perf_counter(), pause=pause)


def _validation_loss(ready: Ready) -> float:
    return mean_loss(ready.engine.speaker, ready.validation, ready.sft.at_once)


def _write_model(ready: Ready, losses: Losses, position: Position) -> None:
    """The tuned model in the run's folder, with its card."""
    step, taken = losses.step, position.step
    trained = Trained(step=step, taken=taken, best=bool(position.best_step))
    card = sft_card(ready.folder, trained, losses, share=ready.policy.share)

    def write(folder: Path) -> None:
        ready.engine.speaker.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")

    ready.folder.write_model(write)
