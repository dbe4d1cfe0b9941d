"""The held-out answers of base and tuned, scored, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from refine_rl.evaluate.answer import Answers, ScoreGroups, answers_of, scored, unscored
from refine_rl.evaluate.compare import compare, met_in_training
from refine_rl.evaluate.verdict import said_with, updated
from refine_rl.pipeline.metrics import Losses, measured, note_losses
from refine_rl.pipeline.work import Work
from refine_rl.policy.card import Trained, base_of, model_card
from refine_rl.training.checkpoint import Position
from refine_rl.types import Comparison, Outcome, Prompt, count_of


def of_base(work: Work, prompts: Sequence[Prompt]) -> list[Outcome]:
    """The untrained model's answers to the held-out prompts. Where scores compare only within a group they
    are still missing: they are given beside the tuned model's, by `of_tuned`. Raises GuardStop where too many
    are missing: nothing is trained yet."""
    note_losses(work, "base", prompts)
    known = work.folder.outcomes("base")
    if known is not None:
        return known
    work.journal.stage(f"The base model answers {count_of(len(prompts), 'held-out prompt')}")
    answers = work.answers(prompts, work.purpose("held_out"))
    if work.scorers.exam.relative:
        outcomes = unscored(answers)
    else:
        score = work.scorer(work.scorers.exam, "The base model's held-out answers", "missing_in_base")
        outcomes = scored([answers], score)[0]
    work.folder.save_outcomes("base", outcomes)
    return outcomes


def of_tuned(
    work: Work, prompts: Sequence[Prompt], base: Sequence[Outcome]
) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
    """The outcomes of base and tuned on the held-out prompts, both scored, base's answers where scores are
    relative in one group with the tuned model's. Scores that are missing now end nothing: the model is
    trained, and the comparison says what it lacks."""
    note_losses(work, "tuned", prompts)
    known = work.folder.outcomes("tuned")
    if known is not None:
        return base, known
    work.journal.stage(f"The tuned model answers {count_of(len(prompts), 'held-out prompt')}")
    answers = work.answers(prompts, work.purpose("held_out"))
    if work.scorers.exam.relative:
        base, outcomes = examined(work, answers_of(base), answers)
        work.folder.save_outcomes("base", base)
    else:
        outcomes = scored([answers], _last_look(work, "tuned"))[0]
    work.folder.save_outcomes("tuned", outcomes)
    return base, outcomes


def examined(
    work: Work, base: Sequence[Answers], tuned: Sequence[Answers]
) -> tuple[list[Outcome], list[Outcome]]:
    """Both sides' answers scored: in one group a prompt where scores are relative, else apart. No number of
    missing scores stops it."""
    if work.scorers.exam.relative:
        base_outcomes, tuned_outcomes = scored([base, tuned], _last_look(work, "comparison"))
        return base_outcomes, tuned_outcomes
    return scored([base], _last_look(work, "base"))[0], scored([tuned], _last_look(work, "tuned"))[0]


def compared(
    work: Work,
    base: Sequence[Outcome],
    tuned: Sequence[Outcome],
    *,
    seed: int | None = None,
    losses: Mapping[str, Losses] | None = None,
) -> Comparison:
    """Both sides beside one another, measured as the settings say; `seed` draws the resamples, without one
    the run's. `losses` are the references', where they are not those on record."""
    seed = work.settings.grpo.seed if seed is None else seed
    comparison = compare(
        base,
        tuned,
        success=work.scorers.exam.success,
        resamples=work.settings.evaluate.bootstrap,
        seed=seed,
        updated=updated(work.folder.history()),
        seen=met_in_training(work.folder.prompts()),
    )
    return measured(work, comparison, {"base": base, "tuned": tuned}, seed, losses)


def _last_look(work: Work, which: str) -> ScoreGroups:
    """Scores for a comparison of what is trained already."""
    whose = {"comparison": "The held-out answers", "base": "The base model's answers"}
    where, name = whose.get(which, "The tuned model's answers"), f"missing_in_{which}"
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
        work.policy.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")

    work.folder.write_model(write)
