"""What a teacher takes: its weights beside the policy's and a forward pass over each answer, or calls of its
server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from refine_rl.plan.calls import examined, validations
from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import Rates
from refine_rl.plan.rivals import rival_groups
from refine_rl.plan.rollback import repeated
from refine_rl.policy.size import Size, UnknownSize, model_size
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training.memory import form_of, whole
from refine_rl.types.amounts import COUNT, amount


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


def answers_taught(settings: Settings, counts: Counts, *, second: bool = False) -> tuple[int, int]:
    """How many answers of a run a teacher looks at, low and high (where a drift may lead back): of training
    and validation, and where nearness to it is the reward, of the pool's probe, the comparison and its rivals
    as well. The policy itself looks at those of training, at most. A `second` run has base's scores."""
    g, samples, back = settings.grpo, settings.evaluate.samples, repeated(settings, counts)
    each = g.prompts_per_step * settings.rollout.group_size
    low, high = g.steps * each, (g.steps + back.steps) * each
    if settings.teacher is not None and settings.teacher.itself:
        return low, high
    looks = validations(g, counts)
    low += looks * counts.validation * samples
    high += (looks + back.looks) * counts.validation * samples
    if settings.rewarded:
        return low, high
    others = settings.prompts.probe * counts.train + counts.held_out * examined(settings, second)
    rivals = rival_groups(settings, counts, relative=False)
    return (
        low + others + sum(one.groups[0] * one.answers for one in rivals),
        high + others + sum(one.groups[1] * one.answers for one in rivals),
    )


def words_on_teacher(
    settings: Settings, counts: Counts | None, rates: Rates | None, seeds: int = 1
) -> Iterator[str]:
    """What a person should know of it beside the figures, of as many runs as there are seeds."""
    teacher = settings.teacher
    if teacher is None or counts is None:
        return
    first, later = answers_taught(settings, counts), answers_taught(settings, counts, second=True)
    low, high = (one + (seeds - 1) * more for one, more in zip(first, later, strict=True))
    number = amount(low, high, COUNT)
    if teacher.served:
        least, most = (
            answers * round(counts.read + share * settings.rollout.most_tokens)
            for answers, share in ((low, 0.5), (high, 1.0))
        )
        yield (
            f"The teacher {teacher.model} is asked at {teacher.base_url}: {number} calls, {least:,} to "
            f"{most:,} tokens. Its time is not known here, and not counted; no price is."
        )
        return
    if teacher.itself:
        yield (
            f"The teacher is {teacher.words}: it reads up to {high:,} answers once more, each behind a "
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
            f"The teacher {teacher.model} reads {number} answers; of the memory, "
            f"{teacher_bytes(settings, form_of(rates)) / 1e9:.2g} GB are its weights."
        )


def _model(name: str) -> ModelSettings:
    """As a model that is loaded beside the policy, with an adapter that takes nothing."""
    run = RunFolder(Path(name).expanduser())
    if run.begun:
        return run.settings().model
    return ModelSettings(name=name, rank=1)
