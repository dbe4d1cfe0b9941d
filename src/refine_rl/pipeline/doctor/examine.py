"""All of it, the cheap before the dear; what fails does not keep the rest from being looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refine_rl.engines.base import Engine
from refine_rl.envs.stage import Stage
from refine_rl.pipeline.doctor.answers import look_at_answers, look_at_rewards
from refine_rl.pipeline.doctor.endpoints import Endpoints, ask_them, look_at_keys, words_before
from refine_rl.pipeline.doctor.machine import look_at_device, look_at_extras, look_at_packages
from refine_rl.pipeline.doctor.model import loaded, look_at_manners, look_at_reach, look_at_sampler
from refine_rl.pipeline.doctor.subject import Subject
from refine_rl.pipeline.doctor.task import (
    look_at_engine,
    look_at_name,
    look_at_plan,
    look_at_settings,
    look_at_task,
)
from refine_rl.plan import Survey
from refine_rl.plan.probe import choose
from refine_rl.policy.load import without_weights
from refine_rl.run.endpoints import models_in
from refine_rl.settings import Settings
from refine_rl.types import Prompt

Agree = Callable[[str], bool]
"""Whether the person agrees to what an LLM is going to be asked, said in words."""
_OFFLINE = "Not asked: --offline"
_DECLINED = "Not asked, as you wished"


def examine(it: Subject, *, agree: Agree, offline: bool = False) -> None:
    """Looks at everything that a run of these settings depends on, and puts it down. No LLM is asked before
    `agree` says so, and none (and no server) `offline`."""
    exam, settings = it.exam, it.settings
    look_at_settings(it)
    look_at_packages(exam)
    look_at_extras(it)
    look_at_device(it)
    found, stage = look_at_task(it)
    known = look_at_keys(it)
    there = look_at_name(it)
    if found is not None and there:
        look_at_plan(it, found)
    served, scores = settings.engine.served and not offline, not _needs_llms(settings)
    if served:
        served = look_at_engine(it)
    elif settings.engine.served:
        exam.skip("engine", _OFFLINE)
    else:
        look_at_engine(it)
    prompts: Sequence[Prompt] = () if found is None else found.prompts
    if known is not None and found is not None:
        scores = _asked(it, known, found, offline, agree) or scores
    if not there:
        exam.skip("weights", "Not looked at: the model's name or configuration cannot be used")
    elif settings.engine.kind == "tinker":
        _at_a_service(it)
    elif (engine := loaded(it, served=served)) is not None:
        try:
            _the_model(it, engine, prompts, stage, scores)
        finally:
            engine.close()


def _needs_llms(settings: Settings) -> bool:
    return bool(settings.reward.judges) or settings.reward.quiz is not None


def _asked(it: Subject, known: Endpoints, found: Survey, offline: bool, agree: Agree) -> bool:
    """Whether those who score were asked, and can be used."""
    names = ", ".join(dict.fromkeys(models_in(it.settings).values()))
    words = words_before(it.settings, found.counts, found.prompts)
    if not words:
        return not _needs_llms(it.settings)
    if offline or not agree(words):
        it.exam.skip("judges", f"{_OFFLINE if offline else _DECLINED}: {names}")
        return False
    return ask_them(it, known, found.prompts)


def _at_a_service(it: Subject) -> None:
    """What can be told of a model whose weights are elsewhere."""
    with it.exam.looking("template"):
        look_at_manners(it.exam, without_weights(it.settings.model))
    for check in ("weights", "sampler", "answers"):
        it.exam.skip(
            check, "The model is at a service, which is paid for what it reads and writes: the run tries it"
        )


def _the_model(
    it: Subject, engine: Engine, prompts: Sequence[Prompt], stage: Stage | None, scores: bool
) -> None:
    exam, settings, policy = it.exam, it.settings, engine.policy
    look_at_manners(exam, policy)
    look_at_reach(it, policy)
    stands_in = Prompt(id="doctor", split="train", messages=({"role": "user", "content": settings.task},))
    chosen: list[Prompt] = []
    if prompts:
        with exam.looking("prompts"):
            chosen = choose(settings, policy, prompts, lambda line: exam.warn("prompts", line))
    it.observer.stage("A random adapter is tried")
    look_at_sampler(it, engine, chosen or [stands_in])
    if settings.sft is not None and not settings.scored:
        return
    if not chosen:
        why = (
            "The writer has not written the prompts yet"
            if settings.writes_prompts
            else "There are no prompts"
        )
        exam.skip("answers", f"{why}: no answers to look at")
        return
    it.observer.stage(f"It answers {len(chosen)} prompts, {settings.rollout.group_size} times each")
    answered = look_at_answers(it, engine, chosen, stage)
    if answered is None:
        exam.skip("reward", "There are no answers to score")
    elif not scores:
        exam.skip("reward", "Not tried: an LLM scores, and it was not asked or cannot be used")
    else:
        it.observer.stage("The answers are scored")
        look_at_rewards(it, chosen, answered)
