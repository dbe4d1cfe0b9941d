"""A run's teacher: looked at before anything is paid for, then loaded, or asked at its server."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.engines.local import LocalEngine
from refine_rl.engines.vllm.teacher import ServedTeacher
from refine_rl.errors import UserError
from refine_rl.pipeline.model import hold_positions, longest_text, run_policy, teaching_run
from refine_rl.pipeline.weights import choose_weights
from refine_rl.policy.load import load_policy, require_model, without_weights
from refine_rl.policy.policy import Policy
from refine_rl.policy.same_tokens import require_same_tokens
from refine_rl.progress import Quiet
from refine_rl.settings import ModelSettings, Settings, TeacherSettings
from refine_rl.training.grpo.teacher import LocalTeacher, Teacher
from refine_rl.types import Prompt


def require_teacher(settings: Settings) -> None:
    """Raises UserError where there can be no such teacher, MachineError where its server does not answer; no
    weights are loaded."""
    teacher = settings.teacher
    if teacher is None or teacher.itself:
        return
    policy = without_weights(settings.model)
    if teacher.served:
        server = ServedTeacher(teacher)
        try:
            server.require(policy)
        finally:
            server.close()
        return
    if (run := teaching_run(teacher)) is not None:
        choose_weights(run)  # which says what is missing
    require_model(_model(teacher, settings))
    require_same_tokens(policy, without_weights(_model(teacher, settings)))


def teacher_of(settings: Settings, policy: Policy, prompts: Sequence[Prompt]) -> Teacher | None:
    """The teacher of a run; None where it has none, or the policy is its own. Raises UserError where it
    cannot be had, has other tokens than the policy, or cannot read the longest of these prompts with an
    answer."""
    teacher = settings.teacher
    if teacher is None or teacher.itself:
        return None
    longest = longest_text(settings.rollout, policy, prompts)
    if teacher.served:
        server = ServedTeacher(teacher)
        try:
            reads = server.require(policy)
            _require_room(teacher, reads, longest + 1)  # a server writes a token behind what it reads
        except BaseException:
            server.close()
            raise
        return server
    run = teaching_run(teacher)
    model = (
        load_policy(_model(teacher, settings))
        if run is None
        else run_policy(run, adapter_from=run.model, keep_reference=False)
    )
    require_same_tokens(policy, model)
    _require_room(teacher, model.context_length, longest)
    hold_positions(settings.rollout, LocalEngine(model), prompts, Quiet())
    return LocalTeacher(speaker=model, tokens=settings.grpo.at_once)


def _model(teacher: TeacherSettings, settings: Settings) -> ModelSettings:
    """A local teacher as a model: of a run, its base; else with a fresh adapter, which changes nothing, so
    that its weights stay in the format in which they are multiplied."""
    run, own = teaching_run(teacher), settings.model
    if run is not None:
        return run.settings().model
    return ModelSettings(name=teacher.model, rank=1, prefix=own.prefix, dtype=own.dtype, device=own.device)


def _require_room(teacher: TeacherSettings, reads: int | None, longest: int) -> None:
    if reads is not None and reads < longest:
        raise UserError(
            f"teacher.model: {teacher.model} reads {reads:,} tokens, and the longest prompt with an answer "
            f"may have {longest:,}. Lower rollout.max_tokens, leave long prompts out, or take another one."
        )
