"""What a teacher takes: its weights beside the policy's and a forward pass over each answer, or calls of its
server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from refine_rl.plan.calls import compared, validations
from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import Rates
from refine_rl.policy.size import Size, UnknownSize, model_size
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training.memory import form_of, whole


def size_of_teacher(settings: Settings) -> Size | None:
    """Of one in this process, the policy itself among them; None where there is none, or its configuration is
    not on this machine."""
    teacher = settings.teacher
    if teacher is None or teacher.served:
        return None
    try:
        return model_size(settings.model if teacher.itself else _model(teacher.model))
    except UnknownSize:
        return None


def teacher_bytes(settings: Settings, form: int) -> float:
    """Of its weights beside the policy's, in a format of so many bytes a number."""
    size = size_of_teacher(settings)
    if size is None or settings.teacher is None or settings.teacher.itself:
        return 0.0
    return whole(_model(settings.teacher.model), size, form)


def answers_taught(settings: Settings, counts: Counts) -> int:
    """How many answers of a run a teacher looks at: of training and validation, and of the comparison where
    nearness to it is the reward. The policy itself looks at those of training, at most."""
    g, samples = settings.grpo, settings.evaluate.samples
    found = g.steps * g.prompts_per_step * settings.rollout.group_size
    if settings.teacher is not None and settings.teacher.itself:
        return found
    found += validations(g, counts) * counts.validation * samples
    if not settings.rewarded:
        found += compared(settings) * counts.held_out * (samples + 1)
    return found


def words_on_teacher(settings: Settings, counts: Counts | None, rates: Rates | None) -> Iterator[str]:
    """What a person should know of it beside the figures."""
    teacher = settings.teacher
    if teacher is None or counts is None:
        return
    answers = answers_taught(settings, counts)
    if teacher.served:
        low, high = (
            answers * round(counts.read + share * settings.rollout.most_tokens) for share in (0.5, 1.0)
        )
        yield (
            f"The teacher {teacher.model} is asked at {teacher.base_url}: {answers:,} calls, {low:,} to "
            f"{high:,} tokens. Its time is not known here, and not counted; no price is."
        )
        return
    if teacher.itself:
        yield (
            f"The teacher is {teacher.words}: it reads up to {answers:,} answers once more, each behind a "
            "longer prompt."
        )
        return
    if size_of_teacher(settings) is None:
        yield (
            f"The teacher {teacher.model}: its configuration is not on this machine; neither its memory nor "
            "its time is counted."
        )
    elif rates is not None:
        yield (
            f"The teacher {teacher.model} reads {answers:,} answers; of the memory, "
            f"{teacher_bytes(settings, form_of(rates)) / 1e9:.2g} GB are its weights."
        )


def _model(name: str) -> ModelSettings:
    """As a model that is loaded beside the policy, with an adapter that takes nothing."""
    run = RunFolder(Path(name).expanduser())
    if run.begun:
        return run.settings().model
    return ModelSettings(name=name, rank=1)
