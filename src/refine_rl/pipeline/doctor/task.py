"""The task by itself: its prompts and its reward; and what the plan says that it takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from refine_rl.engines.build import require_engine
from refine_rl.envs.stage import Stage, stage_of
from refine_rl.pipeline.commits import at_commit
from refine_rl.pipeline.doctor.found import Examination
from refine_rl.pipeline.doctor.subject import Subject
from refine_rl.pipeline.metrics import require_data, require_packages
from refine_rl.pipeline.teacher import require_teacher
from refine_rl.plan import Plan, Survey, machine, plan_of, survey
from refine_rl.policy.load import require_extra, require_model
from refine_rl.settings import Settings
from refine_rl.types import count_of
from refine_rl.types.amounts import BYTES, SECONDS, amount

_LEAST_TOKENS = 256  # in a micro-batch


def look_at_settings(it: Subject) -> None:
    """That the settings can be, and what they ask for; a task file that cannot be read never comes here."""
    exam, settings = it.exam, it.settings
    g, r = settings.grpo, settings.rollout
    if settings.sft is not None and not settings.scored:
        exam.ok("settings", f"supervised fine-tuning of {settings.model.called}")
        return
    first = ", after supervised fine-tuning" if settings.sft is not None else ""
    exam.ok(
        "settings",
        f"{settings.model.called}: {count_of(g.steps, 'step')} of {count_of(g.prompts_per_step, 'prompt')} x "
        f"{r.group_size} answers of at most {count_of(r.max_tokens, 'token')}{first}",
    )


def look_at_task(it: Subject) -> tuple[Survey | None, Stage | None]:
    """Prompts, reward, environment, and the packages that they need; None where a run would refuse them."""
    exam, settings = it.exam, it.settings
    found: Survey | None = None
    stage: Stage | None = None
    with exam.looking("task"):
        found = survey(settings)
        stage = stage_of(settings.rollout, settings.folder)
        require_data(settings, [p for p in found.prompts if p.split == "held_out"])
    with exam.looking("packages"):
        require_packages(settings)
        require_extra(settings.model)
    if settings.teacher is not None:
        with exam.looking("teacher") as looked:
            require_teacher(settings)
        if not looked.failed:
            it_is = f"{settings.teacher.model} has the policy's tokens"
            exam.ok("teacher", settings.teacher.words if settings.teacher.itself else it_is)
    if found is None:
        return None, None
    if found.counts is None:
        rows = 0 if found.shown is None else len(found.shown.rows)
        exam.ok("task", f"{count_of(rows, 'answer')} to imitate")
        return found, stage
    c = found.counts
    words = f"{c.train} training, {c.validation} validation, {c.held_out} held-out prompts"
    if c.written:
        words = f"{settings.writer.model} is still to write {words}"
    exam.ok("task", f"{words}; the reward can be put together")
    if found.lost:
        exam.warn("task", f"Rows of the source were left out: {found.lost}", "refine data describe FILE")
    if found.isolation:
        exam.warn("task", found.isolation)
    return found, stage


def look_at_engine(it: Subject) -> bool:
    """Whether the server or service that answers, or the other processes, can be had."""
    exam, settings = it.exam, it.settings
    with exam.looking("engine") as looked:
        require_engine(settings.engine, settings.model)
    if not looked.failed and settings.engine.served:
        exam.ok("engine", f"{settings.engine.kind} answers for {settings.model.called}")
    return not looked.failed


def look_at_name(it: Subject) -> bool:
    """Whether there is such a model, of a kind that is trained here."""
    with it.exam.looking("model") as looked:
        at_commit(it.settings.model.name, "model.name")  # a revision that there is not is named by its key
        require_model(it.settings.model)
    return not looked.failed


def look_at_plan(it: Subject, found: Survey) -> None:
    """Memory, disk, time and budget, as `refine plan` has them."""
    exam, settings = it.exam, it.settings
    planned: Plan | None = None
    with exam.looking("plan"):
        planned = plan_of(settings, found)
    if planned is None:
        return
    if planned.memory is None or planned.rates is None or planned.disk is None:
        exam.skip("memory", " ".join(planned.notes[:1]) or "The model's size is not known")
    else:
        _memory(it, found, planned, planned.memory)
        _disk(it, planned.disk)
    _time(exam, settings, planned)
    for text in planned.over:
        exam.warn("budget", text)


def _memory(it: Subject, found: Survey, planned: Plan, needs: tuple[float, float]) -> None:
    exam = it.exam
    assert planned.rates is not None
    installed = machine.installed_memory(planned.rates.device)
    free = _free(planned.rates.device, installed)
    words = f"{planned.held()} of {amount(installed, installed, BYTES)}"
    if needs[1] <= min(free, installed):
        exam.ok("memory", words)
        return
    if needs[1] <= installed:
        now = amount(free, free, BYTES)
        exam.warn("memory", f"{words}, of which {now} are free now", "Close what else uses it.")
        return
    report = exam.fail if needs[0] > installed else exam.warn
    how = "It does not fit" if needs[0] > installed else "It may not fit"
    report("memory", f"{words}. {how}", _smaller(it, found, planned, installed))


def _free(device: str, installed: float) -> float:
    """Bytes that nobody else uses; all where that cannot be told."""
    if device == "cuda":
        from refine_rl.training.memory import free_memory

        return free_memory(device) or installed
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return installed


def _smaller(it: Subject, found: Survey, planned: Plan, room: float) -> str:
    """The first change of the settings that fits by the plan's high figure, as a command."""
    for changes in _changes(it.settings):
        other = it.settings
        for key, value in changes.items():
            table, name = key.split(".")
            section = getattr(other, table).model_copy(update={name: value})
            other = other.model_copy(update={table: section})
        need = plan_of(other, found, rates=planned.rates).memory
        if need is not None and need[1] <= room:
            return it.command.again(*(f"{key}={str(value).lower()}" for key, value in changes.items()))
    return "No batch is small enough: take a smaller model (model.name), or a machine with more memory."


def _changes(settings: Settings) -> Iterator[dict[str, int | bool]]:
    """What lowers memory, the milder first."""
    table = "grpo" if settings.scored or settings.sft is None else "sft"
    tokens: int = getattr(settings, table).at_once
    smaller: dict[str, int | bool] = {}
    while tokens // 2 >= _LEAST_TOKENS:
        tokens //= 2
        smaller = {f"{table}.tokens_per_micro_batch": tokens}
        yield smaller
    if not settings.model.gradient_checkpointing:
        yield {"model.gradient_checkpointing": True, **smaller}


def _disk(it: Subject, needs: float) -> None:
    exam, less = it.exam, it.command.again("grpo.keep_checkpoints=1")
    free = shutil.disk_usage(Path.cwd()).free
    words = f"{amount(needs, needs, BYTES)} of {amount(free, free, BYTES)} that are free here"
    if needs > free:
        exam.fail("disk", words, f"df -h .\n{less}")
    else:
        exam.ok("disk", words)


def _time(exam: Examination, settings: Settings, planned: Plan) -> None:
    total = planned.seconds.total
    if total is None:
        exam.skip("time", f"{planned.elsewhere} is not known".capitalize())
        return
    words = f"about {amount(*total, SECONDS)} in all"
    if planned.work is not None:
        low, high = planned.work.step
        words += f"; {low:.2g}–{high:.2g} s of this machine a step"
    if settings.budget.hours is not None:
        words += f"; budget.hours = {settings.budget.hours:g}"
    crowd = "" if planned.rates is None else machine.crowded(planned.rates.device)
    exam.ok("time", f"{words}. {crowd}" if crowd else words)
