"""The held-out answers of base, fine-tuned and tuned, scored, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from refine_rl.engines.base import Engine
from refine_rl.evaluate.answer import Answers, ScoreGroups, answers_of, scored, unscored
from refine_rl.evaluate.compare import compare, met_in_training
from refine_rl.evaluate.rivals import Contest, with_rivals
from refine_rl.evaluate.verdict import said_with, updated
from refine_rl.pipeline.metrics import Losses, losses_wanted, measured, note_losses
from refine_rl.pipeline.model import hold_positions, run_engine
from refine_rl.pipeline.probes import Looks, note_probes, probes_wanted, with_forgetting
from refine_rl.pipeline.work import Work
from refine_rl.policy.card import Trained, base_of, model_card
from refine_rl.progress import Quiet
from refine_rl.training.checkpoint import Position
from refine_rl.types import Comparison, Outcome, Prompt, count_of

Sides = Mapping[str, Sequence[Outcome]]
"""What each model did with the same prompts, in the order of their making: "base", "sft" where the run begins
with supervised fine-tuning, "tuned"."""


def of_untuned(work: Work, prompts: Sequence[Prompt]) -> Sides:
    """The answers to the held-out prompts before GRPO: the base model's, and those of the fine-tuned one
    where training begins with that. Where scores compare only within a group they are still missing: they
    are given beside the tuned model's, by `of_tuned`. Raises GuardStop where too many are missing: GRPO has
    not begun yet."""
    if work.settings.sft is None:
        return {"base": _untuned(work, prompts, "base", "base model")}
    wanted = losses_wanted(work, "base") or probes_wanted(work, "base")
    if wanted or work.folder.outcomes("base") is None:
        work.journal.stage("Loading the base model once more")
        with closing(run_engine(work.folder, keep_reference=False, untouched=True)) as engine:
            hold_as_run(work, engine, prompts)
            base = _untuned(replace(work, engine=engine), prompts, "base", "base model")
    else:
        base = _untuned(work, prompts, "base", "base model")
    return {"base": base, "sft": _untuned(work, prompts, "sft", "fine-tuned model")}


def hold_as_run(work: Work, engine: Engine, prompts: Sequence[Prompt]) -> None:
    """A model that is loaded beside the run's computes positions as that one does."""
    hold_positions(work.settings.rollout, engine, [*work.folder.prompts(), *prompts], Quiet())


def _untuned(work: Work, prompts: Sequence[Prompt], side: str, called: str) -> Sequence[Outcome]:
    note_losses(work, side, prompts)
    if side == "base":
        note_probes(work, side)
    known = work.folder.outcomes(side)
    if known is not None:
        return known
    work.journal.stage(f"The {called} answers {count_of(len(prompts), 'held-out prompt')}")
    answers = work.answers(prompts, work.purpose("held_out"))
    if work.scorers.exam.relative:
        outcomes = unscored(answers)
    else:
        score = work.scorer(work.scorers.exam, f"The {called}'s held-out answers", f"missing_in_{side}")
        outcomes = scored([answers], score)[0]
    work.folder.save_outcomes(side, outcomes)
    return outcomes


def of_tuned(work: Work, prompts: Sequence[Prompt], before: Sides) -> Sides:
    """The outcomes of all sides on the held-out prompts, all scored, in one group a prompt where scores are
    relative. Scores that are missing now end nothing: the model is trained, and the comparison says what it
    lacks."""
    note_losses(work, "tuned", prompts)
    note_probes(work, "tuned")
    known = work.folder.outcomes("tuned")
    if known is not None:
        return {**before, "tuned": known}
    work.journal.stage(f"The tuned model answers {count_of(len(prompts), 'held-out prompt')}")
    answers = work.answers(prompts, work.purpose("held_out"))
    if not work.scorers.exam.relative:
        sides = {**before, **examined(work, {"tuned": answers})}
    else:
        unscored_yet = {side: answers_of(outcomes) for side, outcomes in before.items()}
        sides = {**examined(work, {**unscored_yet, "tuned": answers})}
        for side in before:
            work.folder.save_outcomes(side, sides[side])
    work.folder.save_outcomes("tuned", sides["tuned"])
    return sides


def examined(work: Work, sides: Mapping[str, Sequence[Answers]]) -> Sides:
    """All sides' answers scored: in one group a prompt where scores are relative, else apart. No number of
    missing scores stops it."""
    if work.scorers.exam.relative:
        outcomes = scored(list(sides.values()), _last_look(work, "comparison"))
        return dict(zip(sides, outcomes, strict=True))
    return {side: scored([answers], _last_look(work, side))[0] for side, answers in sides.items()}


def compared(
    work: Work,
    sides: Sides,
    contest: Contest | None = None,
    *,
    seed: int | None = None,
    losses: Mapping[str, Losses] | None = None,
    looks: Looks | None = None,
) -> Comparison:
    """The sides beside one another, measured as the settings say, with what is known of the rivals among
    them; `seed` draws the resamples, without one the run's. `losses` are the references', and `looks` those
    at what is not the task, where they are not those on record. Metrics are of base and tuned, and of what
    training began with."""
    seed = work.settings.grpo.seed if seed is None else seed
    comparison = compare(
        sides["base"],
        sides["tuned"],
        success=work.scorers.exam.success,
        resamples=work.settings.evaluate.bootstrap,
        seed=seed,
        updated=updated(work.folder.history()),
        seen=met_in_training(work.folder.prompts()),
        matters=work.settings.evaluate.matters,
        others={side: outcomes for side, outcomes in sides.items() if side not in ("base", "tuned")},
    )
    if contest is not None and (contest.made or contest.missing):
        resamples = work.settings.evaluate.bootstrap
        comparison = with_rivals(comparison, sides, contest, resamples=resamples, seed=seed)
        sides = {side: outcomes for side, outcomes in sides.items() if side not in contest.made}
    return with_forgetting(work, measured(work, comparison, sides, seed, losses), seed, looks)


def _last_look(work: Work, which: str) -> ScoreGroups:
    """Scores for a comparison of what is trained already."""
    whose = {
        "comparison": "The held-out answers",
        "base": "The base model's answers",
        "sft": "The fine-tuned model's answers",
        "tuned": "The tuned model's answers",
    }
    where = whose.get(which, f"The answers of the rival {which}")
    name = f"missing_in_{which}"
    if work.evaluation:  # its events stand among the run's
        where, name = f"Evaluation {work.evaluation}: {where}", f"{name}_of_{work.evaluation}"
    return work.scorer(work.scorers.exam, where, name, stops=False)


def write_model(work: Work, comparison: Comparison, position: Position) -> None:
    """The tuned model in the run's folder, with its card."""
    step = position.best_step or position.step
    card = model_card(
        work.settings,
        comparison,
        trained=Trained(step=step, taken=position.step, best=bool(position.best_step)),
        base=base_of(work.settings.model.name),
        changes=[str(change) for change in work.folder.changed_settings()],
        said=said_with(comparison),
        share=work.policy.share,
    )

    def write(folder: Path) -> None:
        work.speaker.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")

    work.folder.write_model(write)
