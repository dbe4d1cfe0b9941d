"""Before training: what is free of charge is checked first, then those who score are asked once, then the
model is loaded, then LLMs write (a rubric, prompts), then everything is on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from refine_rl.engines.base import Engine
from refine_rl.engines.build import require_engine
from refine_rl.envs.stage import Stage, stage_of
from refine_rl.errors import SettingsError, Together
from refine_rl.llm.background import run_blocking
from refine_rl.llm.connections import EndpointConnections
from refine_rl.llm.ledger import Ledger
from refine_rl.pipeline.begin import begin
from refine_rl.pipeline.commits import hold_commits
from refine_rl.pipeline.first_looks import FirstLooks
from refine_rl.pipeline.metrics import require_packages
from refine_rl.pipeline.model import closed_on_error, hold_positions, run_engine
from refine_rl.pipeline.rivals.contest import require_rivals
from refine_rl.pipeline.run_prompts import Read, check_prompts, read_prompts, settle_prompts
from refine_rl.pipeline.sft import begin_with_sft
from refine_rl.pipeline.teacher import require_teacher, teacher_of
from refine_rl.policy.hub import downloading
from refine_rl.policy.load import require_extra, require_model
from refine_rl.policy.merging import LOSS_WORTH_A_WORD
from refine_rl.policy.origin import model_source
from refine_rl.progress import Pause
from refine_rl.prompts.curate import said
from refine_rl.recipes.examples import require_own_reward
from refine_rl.rewards import check_sanity
from refine_rl.rewards.build import Scorers, build_scorers, isolation_of, panels, quiz_of
from refine_rl.rewards.judges.rubric import write_rubric
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import check_models, connect
from refine_rl.run.journal import Journal
from refine_rl.run.trackers.build import require_trackers
from refine_rl.settings import Settings
from refine_rl.training.grpo.setup import world_at
from refine_rl.training.grpo.teacher import Teacher
from refine_rl.types import Prompt, Split

Functions = Sequence[Callable[..., Any]]
_WRITTEN = "write"  # reward.rubric, where the writer is to write it


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training begins with."""

    settings: Settings
    connections: EndpointConnections
    scorers: Scorers
    engine: Engine
    stage: Stage | None
    teacher: Teacher | None
    prompts: Mapping[Split, list[Prompt]]


def prepare(folder: RunFolder, functions: Functions, journal: Journal, pause: Pause) -> Prepared:
    """Everything before the base model's first answer; what an earlier process settled is taken from the
    record. Raises UserError for a mistake, MachineError where nobody who scores can be used. No LLM is asked
    before the settings, the keys, the files and the model's name have been found good."""
    settings = hold_commits(folder, journal)
    connections = connect(settings, folder, journal.observer.warning)
    check_models(settings, connections)

    def scorers_of(settings: Settings) -> Scorers:
        return build_scorers(settings, functions, connections, shelf=folder.quiz)

    scorers, read, stage = _checked(folder, settings, connections, scorers_of, journal, pause)
    costs = bool(settings.reward.judges) or settings.reward.quiz is not None
    looks = FirstLooks(
        folder=folder,
        task=settings.task,
        panels=panels(scorers),
        quiz=quiz_of(scorers.validation),
        connections=connections,
        journal=journal,
        pause=pause,
    )
    known = [] if read is None else read.prompts
    if (costs or looks.panels) and folder.outcomes("base") is None:
        require_model(settings.model)
        looks.at_judges(known)
        looks.at_quiz(known)
    given = settings.reward.rubric != _WRITTEN
    if costs and given:
        check_sanity(scorers.validation, settings.reward.sanity, closing=connections.close, pause=pause)
    engine = _loaded(folder, settings, stage, journal, connections.ledger)
    policy = engine.policy
    with closed_on_error(engine):
        if not given:
            settings = _settle_rubric(folder, settings, connections, journal, pause)
            scorers = scorers_of(settings)
            if costs:
                check_sanity(
                    scorers.validation, settings.reward.sanity, closing=connections.close, pause=pause
                )
        if read is None:
            journal.stage(f"{settings.writer.model} writes prompts")
            read = read_prompts(folder, settings, connections, journal.observer, pause)
            check_prompts(settings, scorers.validation, read)
            looks.at_quiz(read.prompts)
        prompts = settle_prompts(folder, settings, policy, read, journal)
        every = [p for some in prompts.values() for p in some]
        hold_positions(settings.rollout, engine, every, journal.observer)
        settings = begin(folder, settings, policy, journal)
        journal.note("parameters", policy.share.text, once=True)
    if _untouched(folder, settings):
        engine.close()
        del engine, policy  # the fine-tuning has the memory to itself
        # Where a world plays, prompts of all splits may ask the same, and it gives nothing away.
        trained = {said(prompt.messages) for prompt in prompts["train"]}
        apart = (*prompts["validation"], *prompts["held_out"])
        others = [p for p in apart if said(p.messages) not in trained]
        begin_with_sft(folder, settings, journal, pause, others)
        engine = _loaded(folder, settings, stage, journal, connections.ledger)
        with closed_on_error(engine):
            hold_positions(settings.rollout, engine, every, journal.observer)
    return Prepared(
        settings=settings,
        connections=connections,
        scorers=scorers,
        engine=engine,
        stage=stage,
        teacher=_teacher(settings, engine, every, journal),
        prompts=prompts,
    )


def _teacher(
    settings: Settings, engine: Engine, prompts: Sequence[Prompt], journal: Journal
) -> Teacher | None:
    if settings.teacher is None or settings.teacher.itself:
        return None
    how = "Asking" if settings.teacher.served else "Loading"
    journal.stage(f"{how} the teacher {settings.teacher.model}")
    with closed_on_error(engine):
        return teacher_of(settings, engine.policy, prompts)


def _checked(
    folder: RunFolder,
    settings: Settings,
    connections: EndpointConnections,
    scorers_of: Callable[[Settings], Scorers],
    journal: Journal,
    pause: Pause,
) -> tuple[Scorers, Read | None, Stage | None]:
    """What costs nothing: the rewards, the environment, and the prompts unless a writer is still to write
    them. Mistakes are told together."""
    together = Together()
    read: Read | None = None
    with together:
        scorers = scorers_of(settings)
    with together:
        stage = stage_of(settings.rollout, settings.folder)
    with together:
        require_packages(settings)
    with together:
        require_rivals(settings)
    with together:
        require_extra(settings.model)
    with together:
        require_trackers(settings.track)
    with together:
        require_engine(settings.engine, settings.model)
    with together:
        require_teacher(settings)
    with together:
        if settings.sft is not None and settings.engine.kind == "tinker":
            raise SettingsError(
                'sft: a run with `engine.kind = "tinker"` does not begin with supervised fine-tuning. Run '
                "`refine sft` alone and have the service serve its model, or take [sft] out."
            )
    with together:
        require_own_reward(settings.reward, task=settings.task, folder=settings.folder)
    if folder.prompts() or not settings.writes_prompts:
        with together:
            read = read_prompts(folder, settings, connections, journal.observer, pause)
    together.tell()
    with together:
        if told := isolation_of(scorers.validation):
            journal.warning("isolation", told)
    together.tell()
    with together:
        if not settings.reward.judges and settings.reward.quiz is None:
            check_sanity(scorers.validation, settings.reward.sanity, pause=pause)
    with together:
        if read is not None:
            check_prompts(settings, scorers.validation, read)
    together.tell()
    return scorers, read, stage


def _loaded(
    folder: RunFolder, settings: Settings, stage: Stage | None, journal: Journal, ledger: Ledger
) -> Engine:
    """The untrained model, with a word about what is special with it."""
    journal.stage(f"Loading {settings.model.called}")
    source = model_source(settings.model.name, journal.observer.note)
    untouched = _untouched(folder, settings)
    with downloading(source, partial(journal.observer.count, "MB downloaded")):
        engine = run_engine(
            folder,
            keep_reference=settings.grpo.kl > 0,
            record=True,
            untouched=untouched,
            ledger=ledger,
        )
    policy = engine.policy
    if policy.start is not None and policy.start.lost >= LOSS_WORTH_A_WORD:
        journal.observer.warning(
            f"Merging the adapter of {settings.model.called} into {policy.compute_dtype} weights loses "
            f'{policy.start.lost:.0%} of it to rounding. model.dtype = "float32" keeps all of it.'
        )
    for note in engine.notes:
        journal.observer.note(note)
    if policy.why_plain:
        why = f"no shared prompts for this model ({policy.why_plain}): the same results, more slowly"
        journal.observer.note(why)
    with closed_on_error(engine):
        world_at(settings, engine.speaker, 1, stage).fits()
    return engine


def _untouched(folder: RunFolder, settings: Settings) -> bool:
    """Whether supervised fine-tuning, with which this run begins, is still to be done."""
    return settings.sft is not None and not folder.sft.ended


def _settle_rubric(
    folder: RunFolder,
    settings: Settings,
    connections: EndpointConnections,
    journal: Journal,
    pause: Pause,
) -> Settings:
    """The settings with the rubric that the writer makes of the task; put on record, so that a resume
    judges by the same."""
    journal.stage(f"{settings.writer.model} writes the rubric")

    async def write() -> str:
        try:
            return await write_rubric(settings.task, connections.client(settings.writer.model))
        finally:
            await connections.close()

    text = run_blocking(write, pause)
    journal.observer.note(f"rubric:\n{text}")
    journal.event("curation", "rubric", text)
    reward = settings.reward.model_copy(update={"rubric": text})
    settings = settings.model_copy(update={"reward": reward})
    folder.config.save(settings)
    return settings
