"""Looks at the policy and its judges on the way: validation, the pool's probe, bad answers on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from refine_rl.envs.play import sample
from refine_rl.errors import MEND, GuardStop
from refine_rl.evaluate.answer import Answers, answers_of, scored
from refine_rl.evaluate.stats import mean_ci
from refine_rl.pipeline.eye import heeded, looked
from refine_rl.pipeline.places import look_at_places
from refine_rl.pipeline.work import Work
from refine_rl.randomness import generator
from refine_rl.rewards.judges.anchors import check_anchors
from refine_rl.training.grpo.setup import sampling_of
from refine_rl.training.grpo.teacher import apart, lessons
from refine_rl.training.missing import require_scores
from refine_rl.types import Outcome, Prompt, decimals, mean_of, same_value


def validate(work: Work, prompts: Sequence[Prompt], training: Sequence[Prompt], step: int) -> float:
    """Mean reward on the validation prompts (or what another eye says of them, see eye.py), always with the
    same draws; put on record. Where scores compare only within a group, the untrained model's answers are
    judged in it too."""
    for record in work.folder.validation():
        if record["step"] == step:
            return heeded(work, record)
    return heeded(work, _looked_at(work, prompts, training, step)[0])


def _looked_at(
    work: Work, prompts: Sequence[Prompt], training: Sequence[Prompt], step: int
) -> tuple[dict[str, Any], Sequence[Outcome]]:
    """A validation that is new: its line, on record now, and what it is of."""
    if step:
        check_judges(work, training, step)
    scorer = work.scorers.validation
    answers = work.answers(prompts, work.purpose("validation"), greedy=False, called="validation answers")
    first = work.folder.outcomes("validation") if scorer.relative and step else None
    where = f"Validation at step {step}"
    score = work.scorer(scorer, where, "missing_in_validation", step)
    if first is not None:
        _, outcomes = scored([answers_of(first), answers], score)
    else:
        outcomes = scored([answers], score)[0]
        if scorer.relative:
            work.folder.save_outcomes("validation", outcomes)
    return _recorded(work, outcomes, step, where), outcomes


def _recorded(work: Work, outcomes: Sequence[Outcome], step: int, where: str) -> dict[str, Any]:
    """Puts a validation on record; its line."""
    every = [s for o in outcomes for _, s in o.sampled]
    scores = [s for s in every if s.value is not None]
    values = [[s.value for _, s in o.sampled if s.value is not None] for o in outcomes]
    rewards = [mean_of(v) for v in values if v]
    if not rewards:  # reward.max_missing allows it, but nothing can be chosen by it
        require_scores(every, 0.0, where)
    estimate = mean_ci(rewards, resamples=1000, seed=work.settings.grpo.seed)
    names = dict.fromkeys(name for s in scores for name in s.breakdown)
    line = {
        "step": step,
        "reward": {"mean": estimate.mean, "ci95": estimate.ci95},
        "success": fmean(work.scorers.validation.success(s) for s in scores),
        "components": {n: mean_of([s.breakdown[n] for s in scores if n in s.breakdown]) for n in names},
        "prompts_with_spread": sum(not same_value(v) for v in values if v) / len(values),
        "scores_missing": sum(s.status == "missing" for s in every),
        **_taught(work, outcomes),
        **looked(work, outcomes, step, where),
    }
    work.folder.validation.append(line)
    return line


def _taught(work: Work, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How far these answers are from the teacher, in nats a token; nothing where there is none."""
    if work.teacher is None:
        return {}
    groups = [[t for t, _ in outcome.sampled] for outcome in outcomes]
    taught = lessons(work.teacher, groups, work.pause)
    found = [
        x
        for group, its in zip(groups, taught, strict=True)
        for t, one in zip(group, its, strict=True)
        for x in apart(t, one)
    ]
    return {"teacher_kl": fmean(found)} if found else {}


def look_before(work: Work, validation: Sequence[Prompt]) -> None:
    """Step 0 of the validation record, and a word where the base model gives GRPO nothing to grip."""
    outcomes = _looked_at(work, validation, [], 0)[1]
    look_at_places(work, outcomes)
    first = work.folder.validation()[0]
    # Where rewards decay within a group there is a spread that single answers do not show.
    comparable = work.settings.evaluate.samples > 1 and not work.settings.rollout.decays
    if comparable and first["prompts_with_spread"] < 0.1:
        share = first["prompts_with_spread"]
        few = f"only {share:.0%} of the prompts get" if share else "no prompt gets"
        work.journal.warning(
            "no_start",
            f"Before training, {few} answers of different reward (mean "
            f"{decimals(first['reward']['mean'])}). GRPO learns from differences alone: make the reward "
            "finer (partial credit), the prompts easier, or start from a model that sometimes succeeds.",
            0,
        )


def probe(work: Work, prompts: Sequence[Prompt]) -> None:
    """What the untrained model makes of every training prompt; put on record for the pool."""
    if work.folder.outcomes("probe") is not None:
        return
    work.journal.stage(f"The pool is probed with {len(prompts)} training prompts")
    groups = sample(
        work.speaker,
        prompts,
        members=work.settings.prompts.probe,
        sampling=sampling_of(work.settings),
        purpose=work.purpose("probe"),
        stage=work.stage,
        pause=work.pause,
        counted=partial(work.journal.observer.count, "prompts probed"),
    )
    answers = [Answers(prompt=p, sampled=g, greedy=g[0]) for p, g in zip(prompts, groups, strict=True)]
    score = work.scorer(work.scorers.validation, "The pool's probe", "missing_in_probe", 0)
    outcomes = scored([answers], score)[0]
    work.folder.save_outcomes("probe", outcomes)
    values = [[s.value for _, s in o.sampled if s.value is not None] for o in outcomes]
    flat = sum(same_value(v) for v in values if v)
    work.journal.observer.note(
        f"{flat} of {len(prompts)} training prompts get answers of equal reward and begin by resting"
    )


def look_at_judges(work: Work, prompts: Sequence[Prompt]) -> None:
    """`check_judges` before anything is scored in earnest."""
    if work.scorers.validation.panel is None or not work.settings.judge.anchors:
        return
    if work.folder.outcomes("base") is None:
        with work.folder.timed("judges", 0):
            check_judges(work, prompts, 0)


def check_judges(work: Work, prompts: Sequence[Prompt], step: int) -> None:
    """Bad answers on purpose, beside the policy's: raises GuardStop where the judges like them, or where none
    of the scores can be had."""
    panel, judge = work.scorers.validation.panel, work.settings.judge
    if panel is None or not judge.anchors:
        return
    work.journal.stage("The judges are shown bad answers on purpose")
    order = generator(work.settings.grpo.seed, "anchors", step).permutation(len(prompts))
    chosen = [prompts[i] for i in order[: judge.anchor_prompts]]
    answers = work.answers(
        chosen, work.purpose("anchors", step), greedy=False, called="answers to be spoiled"
    )
    cases = [(a.prompt, a.sampled) for a in answers]
    report = work.waited_for(check_anchors(panel.asking_for("anchor"), cases))
    judges = ", ".join(dict.fromkeys(client.model for client in panel.judges))
    text = "\n".join((f"judged by {judges}", *report.lines()))
    work.journal.event("anchors", "judges", text, step)
    if not report.had:
        what = f"Step {step}: the judges gave no score to the bad answers. The first reason:\n"
        raise GuardStop("missing", f"{what}{report.why}\n", MEND)
    if report.liked:
        raise GuardStop("judge", f"Step {step}: the judges like bad answers.\n{text}\n", report.advice)
    if report.blind:
        text = report.warning
        work.journal.warning("blind_judge", text, step, shown=f"Step {step}: {text}", once=True)
    for line in report.lines() if step == 0 else [report.line()]:
        work.journal.observer.note(line)
