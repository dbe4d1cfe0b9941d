"""From a task to a tuned model with evidence: the table of contents of the product."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import Any

from refine_rl.errors import UserError, quoted
from refine_rl.evaluate.audit import audit
from refine_rl.evaluate.traits import paid_for
from refine_rl.evaluate.verdict import unexpected
from refine_rl.pipeline.evidence import compared, of_untuned, write_model
from refine_rl.pipeline.grpo import load_best, train_grpo
from refine_rl.pipeline.looking import look_at_judges
from refine_rl.pipeline.model import require_same_model
from refine_rl.pipeline.on_record import on_record
from refine_rl.pipeline.prepare import prepare
from refine_rl.pipeline.renewal import RenewedReport
from refine_rl.pipeline.rivals.contest import of_tuned_and_rivals
from refine_rl.pipeline.tracked import tracked
from refine_rl.pipeline.work import Work
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.report.page import render
from refine_rl.report.survey import survey
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import spending
from refine_rl.run.forgotten import marked
from refine_rl.run.journal import Journal
from refine_rl.types import Comparison


def run(
    folder: RunFolder,
    *,
    observer: Observer | None = None,
    pause: Pause = never,
    functions: Sequence[Callable[..., Any]] = (),
) -> Comparison:
    """Everything, from wherever the folder stands: prompts, base, training, tuned, comparison, report.

    A new folder starts at the beginning; one that was stopped goes on exactly where it was. Whatever
    ends it early, the folder can be resumed, and after a guard the report is there.
    """
    if folder.config.kind() == "sft":
        raise UserError(f"{folder.path} is a run of supervised fine-tuning. Go on with it: {folder.resume}")
    began = time.perf_counter()
    journal = Journal(folder, observer or Quiet(), RenewedReport(folder))
    with folder.writing(), tracked(folder, journal), on_record(folder, journal):
        folder.repair()
        folder.config.require_same_reward(folder.scored)
        if (comparison := _finished(folder, journal)) is not None:
            return comparison
        with folder.timed("prepare"):
            made = prepare(folder, functions, journal, pause)
        settings, held_out = made.settings, made.prompts["held_out"]
        with (
            closing(made.engine),
            closing(made.teacher) if made.teacher is not None else nullcontext(),
            ScoringLoop(closing=made.connections.close) as scoring,
        ):
            work = Work(
                folder=folder,
                settings=settings,
                engine=made.engine,
                scorers=made.scorers,
                scoring=scoring,
                cost=spending(settings, made.connections.ledger),
                journal=journal,
                pause=pause,
                connections=made.connections,
                stage=made.stage,
                teacher=made.teacher,
                began=began,
                warned={
                    e["name"]
                    for e in marked(folder.events())
                    if e["kind"] == "warning" and not e["forgotten"]
                },
            )
            look_at_judges(work, made.prompts["train"])
            with folder.timed("base"):
                untuned = of_untuned(work, held_out)
            work, position = train_grpo(work, made.prompts["train"], made.prompts["validation"])
            load_best(work, position)
            sides, contest = of_tuned_and_rivals(work, made.prompts["train"], held_out, untuned)
            comparison = compared(work, sides, contest)
            folder.save_comparison(comparison)
            texts = {**unexpected(comparison), **audit(comparison, work.scorers.exam.weights)}
            for name, text in texts.items():
                journal.warning(name, text, position.step)
            for name, text in paid_for(survey(folder), settings.grpo.steps).items():
                journal.note(f"rises_with_{name}", text, position.step, once=True)
            write_model(work, comparison, position)
        folder.end(str(comparison), position.step)
        journal.stage("Writing the report")
        folder.save_report(render(folder))
    return comparison


def _finished(folder: RunFolder, journal: Journal) -> Comparison | None:
    """What came of a run in which nothing is left to do; None for any other."""
    if not folder.finished():
        return None
    require_same_model(folder, record=True)
    journal.observer.note(
        f"{folder.path} is finished: nothing is left to train. To compare again, with fresh draws: "
        f"refine eval {quoted(folder.path)}"
    )
    if not folder.report.is_file():
        folder.save_report(render(folder))
    return folder.comparison()
