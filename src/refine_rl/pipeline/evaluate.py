"""A run's evaluation made again: other draws, other prompts, another judge, other weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_rl.engines.local import LocalEngine
from refine_rl.envs.stage import stage_of
from refine_rl.errors import UserError
from refine_rl.evaluate.answer import Answers
from refine_rl.evaluate.rivals import Contest
from refine_rl.evaluate.verdict import unexpected
from refine_rl.llm.connections import EndpointConnections
from refine_rl.pipeline.commits import tell_moved
from refine_rl.pipeline.evidence import Sides, compared, examined, hold_as_run
from refine_rl.pipeline.first_looks import FirstLooks
from refine_rl.pipeline.given import NOTHING, Given, require_given
from refine_rl.pipeline.metrics import Losses, losses_of, require_data, require_packages
from refine_rl.pipeline.model import hold_positions, run_policy
from refine_rl.pipeline.probes import Looks, looked_again, probed_before
from refine_rl.pipeline.rivals.contest import hold, require_rivals, use_of
from refine_rl.pipeline.rivals.rival import Answered
from refine_rl.pipeline.teacher import teacher_of
from refine_rl.pipeline.weights import Weights, choose_weights, open_model
from refine_rl.pipeline.work import Work
from refine_rl.policy.control import readable
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.prompts import load_all_prompts
from refine_rl.report.page import render
from refine_rl.rewards.build import Scorers, build_scorers, isolation_of
from refine_rl.rewards.nearness import NEARNESS
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import check_models, connect, spending
from refine_rl.run.journal import Journal
from refine_rl.settings import EngineSettings, RolloutSettings, Settings
from refine_rl.settings.evaluate import metrics_flaw, rivals_flaw
from refine_rl.settings.file import override
from refine_rl.settings.toml_write import toml_value
from refine_rl.training.grpo.teacher import Teacher
from refine_rl.types import Comparison, Prompt, count_of


def evaluate_again(
    folder: RunFolder,
    *,
    source: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    name: str = "eval",
    judge: str | None = None,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
    rivals: Sequence[str] | None = None,
    probes: bool | None = None,
    weights: Weights | None = None,
    overrides: Sequence[str] = (),
    given: Given = NOTHING,
    observer: Observer | None = None,
    pause: Pause = never,
) -> tuple[Comparison, Path]:
    """Base against tuned with other draws (of `seed`; without one, of the run's plus 1), and on other prompts
    where `source` names some (prompts too close to a training prompt are left out), and by another judge
    ("ENDPOINT/MODEL") where one is named, and by other `metrics`, whose references are the column `reference`
    of the prompts' data, and beside other `rivals`, which are made where they are not yet. `probes`: whether
    what is not the task is looked at again; None: as in the run. `weights` may be other ones than those of
    the tuned model, also of a run that is not finished. Returns the comparison and its file; a report that is
    there shows it from then on. Calls to LLMs go into the run's ledger, under its cap; `overrides` may raise
    that, and say where LLMs answer and what rivals may take, for this evaluation. `given` is the code from
    Python that the run was started with. Raises UserError where it is other code, or where the run or the
    prompts do not allow an evaluation.
    """
    if not name or name != Path(name).name:
        raise UserError(f"--name {name}: it names a file, so it has no / in it.")
    _require_reward(folder, given)
    now, seed = _asked(folder.settings(), overrides, source, seed)
    settings = _settings(folder.settings(), now, samples, judge, metrics, reference, rivals, probes)
    journal = Journal(folder, observer or Quiet())
    with folder.writing():
        folder.repair()
        weights = weights or choose_weights(folder)
        _tell_weights(weights, folder, journal)
        name = folder.free_evaluation(name)  # in here: nobody else writes one of that name now
        connections = connect(settings, folder, journal.observer.warning)
        check_models(settings, connections)
        scorers = build_scorers(settings, given.rewards, connections, shelf=folder.quiz)
        _warn_of_isolation(scorers, journal)
        prompts = _prompts(folder, settings, source, journal)
        scorers.validation.check_data(prompts)
        require_data(settings, prompts)
        _first_looks(folder, settings, scorers, connections, journal, pause, prompts)
        journal.stage(f"Loading {settings.model.called}")
        stage = stage_of(settings.rollout, settings.folder)
        _, policy = open_model(folder, weights)
        prompts = _readable(folder, settings.rollout, prompts, policy, journal)
        with ScoringLoop(closing=connections.close) as scoring:
            work = Work(
                folder=folder,
                settings=settings,
                engine=LocalEngine(policy),
                scorers=scorers,
                scoring=scoring,
                cost=spending(settings, connections.ledger),
                journal=journal,
                pause=pause,
                connections=connections,
                teacher=_teacher(settings, scorers, policy, prompts),
                stage=stage,
                evaluation=name,
            )
            sides, losses, contest, looks = _all_sides(work, prompts, seed)
            comparison = compared(work, sides, contest, seed=seed, losses=losses, looks=looks)
        return comparison, _told(folder, name, comparison, journal)


def _teacher(
    settings: Settings, scorers: Scorers, policy: Policy, prompts: Sequence[Prompt]
) -> Teacher | None:
    """Who is asked where nearness to a teacher is the reward; in other evaluations nobody is taught."""
    return teacher_of(settings, policy, prompts) if NEARNESS in scorers.exam.component_names else None


def _tell_weights(weights: Weights, folder: RunFolder, journal: Journal) -> None:
    """Says which weights are tuned, where they are not the run's last word; and what of the base model and
    the others has moved on the hub."""
    tell_moved(folder, journal)
    if weights.checkpoint is not None:
        trained = weights.trained.text(folder.planned_steps())
        journal.observer.note(f"tuned is the checkpoint after {trained}")


def _warn_of_isolation(scorers: Scorers, journal: Journal) -> None:
    """Says what code that is run is not kept from."""
    if told := isolation_of(scorers.exam):
        journal.observer.warning(told)


def _require_reward(folder: RunFolder, given: Given) -> None:
    """Raises UserError where the run has none, or where other code was given."""
    require_given(folder, given)
    if folder.config.kind() == "sft":
        raise UserError(
            f"{folder.path} is a run of supervised fine-tuning: it has a loss, and no reward by which its "
            "model could be compared. Its report has answers before and after; a GRPO run that begins with "
            "it compares base, fine-tuned and tuned."
        )


def _told(folder: RunFolder, name: str, comparison: Comparison, journal: Journal) -> Path:
    """The evaluation's file, with a word on what was not expected; a report that is there is made anew."""
    for text in unexpected(comparison).values():
        journal.observer.warning(text)
    written = folder.save_evaluation(name, comparison)
    if folder.report.is_file():
        folder.save_report(render(folder))
    return written


def _asked(
    settings: Settings, overrides: Sequence[str], source: str | None, seed: int | None
) -> tuple[Settings, int]:
    """The settings with another cap or other endpoints, and the seed; raises UserError for any other change,
    and for what could not be another evaluation."""
    now = override(settings, list(overrides))
    asked = {"best_of": now.evaluate.best_of, "rival_calls": now.evaluate.rival_calls}
    evaluation = settings.evaluate.model_copy(update=asked)
    same = {"budget": now.budget, "endpoints": now.endpoints, "evaluate": evaluation}
    if settings.model_copy(update=same) != now:
        raise UserError(
            "--set: an evaluation takes other settings of `budget`, `endpoints`, `evaluate.best_of` and "
            "`evaluate.rival_calls` alone; the rest is as the run had it."
        )
    if seed is None:
        seed = now.grpo.seed + 1
    if source is None and seed == now.grpo.seed:
        raise UserError(f"--seed {seed} is the run's own, whose draws stand in its comparison: take another.")
    return now, seed


def _settings(
    settings: Settings,
    now: Settings,
    samples: int | None,
    judge: str | None,
    metrics: Sequence[str] | None,
    reference: str | None,
    rivals: Sequence[str] | None,
    probes: bool | None,
) -> Settings:
    """The run's settings, with what is another in this evaluation. Raises UserError for what cannot be, or is
    not installed."""
    if metrics is not None and (wrong := metrics_flaw(metrics)):
        raise UserError(f"--metrics {','.join(metrics)}: {wrong}")
    measured = settings.evaluate.metrics if metrics is None else metrics
    if judge is not None and not settings.reward.judges and "win_rate" not in measured:
        raise UserError(
            f"--judge {judge}: this run's reward has no judge that it could stand for, and no win rate is "
            "measured (--metrics win_rate)."
        )
    if "win_rate" in measured and not (judge or settings.evaluate.judge or settings.reward.judges):
        raise UserError("--metrics win_rate: a judge decides it, name one with --judge ENDPOINT/MODEL.")
    settings = settings.model_copy(
        update={"budget": now.budget, "endpoints": now.endpoints, "evaluate": now.evaluate}
    )
    if samples is not None:
        evaluation = settings.evaluate.model_copy(update={"samples": samples})
        settings = settings.model_copy(update={"evaluate": evaluation})
    given = {
        "judge": None if judge is None else toml_value(judge),
        "metrics": None if metrics is None else toml_value(list(metrics)),
        "reference": None if reference is None else toml_value(reference),
        "probes": None if probes is None else toml_value(probes),
    }
    if set(measured) <= {"length", "win_rate"}:
        given["name"] = '""'  # no control to echo it for
    if judge is None and not settings.reward.judges and "win_rate" not in measured:
        given["judge"] = '""'  # nothing is left for it to judge
    asked = [f"evaluate.{key}={value}" for key, value in given.items() if value is not None]
    settings = _with_rivals(override(settings, asked) if asked else settings, rivals)
    require_packages(settings)
    require_rivals(settings)
    return settings


def _with_rivals(settings: Settings, rivals: Sequence[str] | None) -> Settings:
    """The settings with these rivals, made and asked in this process whatever engine the run had."""
    if rivals is None:
        return settings
    if wrong := rivals_flaw(rivals):
        raise UserError(f"--rivals {','.join(rivals)}: {wrong}")
    here = settings.model_copy(update={"engine": EngineSettings(kind="local")})
    found = override(here, [f"evaluate.rivals={toml_value(list(rivals))}"])
    return settings.model_copy(update={"evaluate": found.evaluate})


def _prompts(folder: RunFolder, settings: Settings, source: str | None, journal: Journal) -> list[Prompt]:
    if source is None:
        return [p for p in folder.prompts() if p.split == "held_out"]
    prompts, dropped = load_all_prompts(settings, source, apart_from=folder.prompts())
    if dropped:
        journal.observer.note(f"{dropped} prompts left out: too close to the run's own")
    return list(prompts)


def _readable(
    folder: RunFolder, rollout: RolloutSettings, prompts: Sequence[Prompt], policy: Policy, journal: Journal
) -> list[Prompt]:
    """Those that the model can read, for which its positions are held still; raises UserError where none is
    left."""
    read, lines = readable(prompts, policy.encode, policy.control)
    for line in lines:
        journal.observer.note(line)
    if not read:
        raise UserError("No prompt is left that this model can read.")
    hold_positions(rollout, LocalEngine(policy), [*folder.prompts(), *read], journal.observer)
    return list(read)


def _first_looks(
    folder: RunFolder,
    settings: Settings,
    scorers: Scorers,
    connections: EndpointConnections,
    journal: Journal,
    pause: Pause,
    prompts: Sequence[Prompt],
) -> None:
    exam = scorers.exam
    if exam.panel is None:
        return
    FirstLooks(
        folder=folder,
        task=settings.task,
        panels={"reward.judges" if exam is scorers.validation else "evaluate.judge": exam.panel},
        quiz=None,
        connections=connections,
        journal=journal,
        pause=pause,
    ).at_judges(prompts)


def _all_sides(
    work: Work, prompts: Sequence[Prompt], seed: int
) -> tuple[Sides, dict[str, Losses], Contest, Looks]:
    """What each model did, how likely it finds the references where a perplexity is wanted, what came of the
    rivals, and what base and tuned do outside of the task."""
    purpose = Purpose(seed=seed, step=0, name="held_out")
    answers: dict[str, list[Answers]] = {}
    losses: dict[str, Losses] = {}

    def ask(side: str, called: str, speaker: Speaker) -> None:
        work.journal.stage(f"The {called} model answers {count_of(len(prompts), 'prompt')}")
        answers[side] = work.answers(prompts, purpose, speaker=speaker)
        if "perplexity" in work.settings.evaluate.metrics:
            losses[side] = losses_of(work, speaker, prompts)

    if work.settings.sft is not None:
        policy = run_policy(work.folder, keep_reference=False, untouched=True)
        hold_as_run(work, LocalEngine(policy), prompts)
        ask("base", "base", policy)
        before = probed_before(work, policy)
    with work.speaker.reference() as untrained:
        ask(*(("base", "base") if work.settings.sft is None else ("sft", "fine-tuned")), untrained)
        if work.settings.sft is None:
            before = probed_before(work, untrained)
    train = [p for p in work.folder.prompts() if p.split == "train"]

    def keep(name: str, answer: Callable[[], Answered]) -> Mapping[str, Any]:
        answered = answer()
        answers[name] = list(answered.answers)
        return use_of(answered)

    contest = hold(work, train, prompts, purpose, keep)
    ask("tuned", "tuned", work.speaker)
    looks = looked_again(work, before)
    return examined(work, answers), losses, contest, looks
