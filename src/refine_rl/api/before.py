"""plan, prompts: before a training."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_rl.api import checks
from refine_rl.api.arguments import Function, Judge, Model, Prompts, Section, Task
from refine_rl.api.observing import showing
from refine_rl.api.records import PromptList, RewardCheck
from refine_rl.api.stops import once
from refine_rl.foreign.given import given as given_code
from refine_rl.pipeline.given import Given
from refine_rl.pipeline.seeds import check as check_seeds
from refine_rl.progress import Observer, Pause, count
from refine_rl.settings import Settings

if TYPE_CHECKING:
    from refine_rl.plan import Plan


def plan(
    task: str | Path,
    *,
    model: Model = None,
    prompts: Prompts = None,
    rewards: Sequence[Function] = (),
    rules: Sequence[Section] = (),
    writer: str | Section | None = None,
    judge: Judge = None,
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
    seeds: int | None = None,
    **sections: Any,
) -> Plan:
    """Says what a training would take, before it takes anything: calls to LLMs, tokens, dollars, minutes,
    memory. Nothing is asked, nothing is spent; prompts and rewards are read, and their mistakes are found.

    The arguments are those of `train`. Raises UserError for what `train` would refuse before it loads the
    model.
    """
    code = Given(rewards=rewards, environment=environment, tools=tools)
    asked = Task(
        task=task,
        model=model,
        prompts=prompts,
        rules=rules,
        writer=writer,
        judge=judge,
        given=code,
        sections=sections,
    )
    asked.check()
    if seeds is not None:
        checks.number("seeds", seeds, least=2)
    from refine_rl.plan import plan_of, survey  # late: torch

    def work(pause: Pause) -> Plan:
        with settings_with_list(asked) as settings, given_code(code.named):
            if seeds is not None:
                check_seeds(settings, seeds)
            return plan_of(settings, survey(settings, code.rewards), seeds=seeds or 1)

    return once(work)


def check(
    task: str | Path,
    *,
    answers: str | Path | Sequence[Section] | None = None,
    count: int = 3,
    prompts: Prompts = None,
    rewards: Sequence[Function] = (),
    rules: Sequence[Section] = (),
    judge: Judge = None,
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
    observer: Observer | None = None,
    **sections: Any,
) -> RewardCheck:
    """Tries the whole reward on example answers: judges, rules, functions and all; no training, no model. It
    says where something bad scores well, and what tells nothing apart. Judges are asked, which costs.

    Args:
        task: what is wanted, in plain words; or the path of a task.toml, or of a folder that has one.
        answers: a JSONL file, or rows: `{"prompt": "...", "answers": ["...", "..."]}`, or "good" and "bad" in
            the place of "answers". Without it, answers are made up for a few training prompts.
        count: training prompts to make up answers for.
        prompts, rewards, rules, judge, environment, tools, sections: as in `train`.
        observer: hears the progress; without it, it is shown.

    Raises UserError for what cannot be scored so, MachineError where a judge's endpoint is down, GuardStop at
    the end of the budget, Interrupted after Ctrl-C. A reward that is found to be bad is no error: look at
    what comes back.
    """
    code = Given(rewards=rewards, environment=environment, tools=tools)
    asked = Task(task=task, prompts=prompts, rules=rules, judge=judge, given=code, sections=sections)
    checks.every(
        asked.check,
        lambda: checks.observer(observer),
        lambda: checks.number("count", count, least=1),
        lambda: checks.answers(answers),
    )
    given = Path(answers) if isinstance(answers, str) else answers
    from refine_rl.pipeline.check import lay_out  # late: torch

    def work(pause: Pause) -> RewardCheck:
        with showing(None, observer) as shown, settings_with_list(asked) as settings, given_code(code.named):
            trial = lay_out(
                settings, answers=given, count=count, functions=code.rewards, observer=shown, pause=pause
            )
            for note in trial.notes:
                shown.note(note)
            return RewardCheck(result=trial.scored(pause))

    return once(work)


def prompts(
    task: str | Path,
    *,
    prompts: Prompts = None,
    writer: str | Section | None = None,
    observer: Observer | None = None,
    **sections: Any,
) -> PromptList:
    """Loads the prompts of a task, or has its writer write them; curates and splits them, to be looked at. A
    later `train` of the same task takes what was written from the cache.

    Args:
        task: what is wanted, in plain words; or the path of a task.toml, or of a folder that has one.
        prompts: a file, a source, a list; or the [prompts] section as a dict, as in `train`.
        writer: "ENDPOINT/MODEL" of the LLM that writes them; or the [writer] section as a dict.
        observer: hears how far the writer is; without it, it is shown.
        sections: further settings by section, as in `train`.

    Raises UserError for what cannot be read or written, or where there are too few; MachineError where the
    writer's endpoint failed, Interrupted after Ctrl-C.
    """
    asked = Task(task=task, prompts=prompts, writer=writer, sections=sections)
    asked.check()
    checks.observer(observer)

    def work(pause: Pause) -> PromptList:
        with showing(None, observer) as shown, settings_with_list(asked) as settings:
            from refine_rl.pipeline.prompts import gather_prompts  # late: torch

            counted = partial(count, shown, "prompts written")
            gathered = gather_prompts(settings, shown.note, pause, counted=counted)
            source = settings.prompts.source
            summary = (
                line.replace(source, "a list") if asked.listed else line for line in gathered.report.summary()
            )
        return PromptList(
            prompts=gathered.prompts,
            summary=tuple(summary),
            calls=gathered.calls,
            cost_usd=gathered.cost_usd,
        )

    return once(work)


@contextlib.contextmanager
def settings_with_list(asked: Task) -> Iterator[Settings]:
    """The settings of a task without a run; prompts that are a list stand in a file meanwhile."""
    settings, lines = asked.settings(), asked.prompt_lines()
    if lines is None:
        yield settings
        return
    with listed(lines) as source:
        own = settings.prompts.model_copy(update={"source": source})
        yield settings.model_copy(update={"prompts": own})


@contextlib.contextmanager
def listed(lines: str) -> Iterator[str]:
    """Prompts in a file that is gone afterwards; yields their source."""
    with tempfile.TemporaryDirectory(prefix="refine-") as folder:
        file = Path(folder) / "given.jsonl"
        file.write_text(lines, encoding="utf-8")
        yield f"file:{file}"
