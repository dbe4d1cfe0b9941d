"""train, resume; sft, resume_sft; open_run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from refine_rl.api import checks
from refine_rl.api.arguments import Function, Judge, Model, Prompts, Section, Task, rows_of, source_of
from refine_rl.api.observing import showing
from refine_rl.api.records import Run, SeedsRun, SFTRun
from refine_rl.api.seeds import go, train_under
from refine_rl.api.stops import in_own_words, training
from refine_rl.errors import UserError
from refine_rl.pipeline.given import Given, require_given, resume_call
from refine_rl.pipeline.launch import take_part
from refine_rl.progress import Observer, Pause
from refine_rl.run import RunFolder, new_run
from refine_rl.run.life import taken_by
from refine_rl.settings import Settings


@overload
def train(
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
    rivals: Sequence[str] | None = None,
    seeds: None = None,
    run: str | Path | None = None,
    observer: Observer | None = None,
    **sections: Any,
) -> Run: ...
@overload
def train(
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
    rivals: Sequence[str] | None = None,
    seeds: int,
    run: str | Path | None = None,
    observer: Observer | None = None,
    **sections: Any,
) -> SeedsRun: ...
def train(
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
    rivals: Sequence[str] | None = None,
    seeds: int | None = None,
    run: str | Path | None = None,
    observer: Observer | None = None,
    **sections: Any,
) -> Run | SeedsRun:
    """Trains a model for a task and compares it with what it was.

    Args:
        task: what is wanted, in plain words; or the path of a task.toml, or of a folder that has one.
        model: a hub id, a folder or "tiny"; or the [model] section as a dict. Without it, the task file's, or
            "Qwen/Qwen2.5-0.5B-Instruct".
        prompts: a file of prompts, "recipe:NAME", "hub:OWNER/NAME", "writer", a list of prompts (strings, or
            dicts as a line of a JSONL file has them); or the [prompts] section as a dict.
        rewards: functions `(prompt, completion) -> float`; more parameters are filled by name from the
            prompt's data. TRL's list form works as well.
        rules: rule tables, e.g. `{"rule": "words", "max": 20}`; they replace those of a task.toml.
        writer: "ENDPOINT/MODEL" of the LLM that writes prompts where none are given; or the [writer]
            section as a dict.
        judge: "ENDPOINT/MODEL" of the LLM that scores the answers, or several as a panel; they replace
            those of a task.toml. Or the [judge] section as a dict, which says how they judge: then
            `reward={"judges": [...]}` names them.
        environment: the class of a world in which the policy takes several turns, with
            `start(self, data, seed)` and `step(self, reply)`; or one with Gymnasium's methods.
        tools: functions that the policy may call, with type hints and a docstring.
        rivals: other ways to the same end, beside tuned: "prompt", "best_of_n", "sft" (`comparison.rivals`).
        seeds: train so often, under a seed each: a `SeedsRun` comes back, with an interval over seeds.
        run: the run's folder; without it, a new one below runs/.
        observer: hears the progress; without it, it is shown.
        sections: further settings by section: `grpo={"steps": 50}, rollout={"group_size": 8}`; they go
            over those of a task.toml.

    Raises UserError for what the arguments, files or model do not allow; GuardStop where a guard ended
    the training, MachineError where an endpoint or the machine failed, Interrupted after Ctrl-C or a
    kernel's interrupt: these three say how `resume` goes on.
    """
    take_part()
    code = Given(rewards=rewards, environment=environment, tools=tools)
    asked = Task(
        task=task,
        model=model,
        prompts=prompts,
        rules=rules,
        writer=writer,
        judge=judge,
        given=code,
        rivals=rivals,
        sections=sections,
    )
    _check(asked.check, run, observer)
    settings = asked.settings()
    lines = asked.prompt_lines()
    if seeds is not None:
        return train_under(settings, seeds, code, lines, run, observer)
    with new_run(None if run is None else Path(run), settings.name or "run") as folder:
        if lines is not None:
            settings = settings.with_prompts(folder.give_prompts(lines))
        folder.begin(settings, python_rewards=code.names.rewards)
        return go(folder, observer, code)


def resume(
    run: str | Path | Run,
    *,
    step: int | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line's --set
    rewards: Sequence[Function] = (),
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
    observer: Observer | None = None,
) -> Run:
    """Goes on with a run exactly where it stopped, however it stopped.

    Args:
        run: the run's folder.
        step: go back to the checkpoint of this step first (0: the start); what came later is forgotten.
        set: settings to change from here on, by their keys: `set={"grpo.steps": 200}`. What would make base
            and tuned incomparable cannot change.
        rewards, environment, tools: the code that was given to `train`, given again.
        observer: hears the progress; without it, it is shown.

    Raises UserError where there is no such run, where the code is other code, or where a setting cannot
    change; else what `train` raises.
    """
    take_part()
    code = Given(rewards=rewards, environment=environment, tools=tools)
    path = folder_of(run)
    _check(lambda: checks.code(code), None, observer)
    checks.number("step", step, least=0)
    changes = checks.overrides(set)
    opened = opened_run(path)
    if opened.config.kind() == "sft":
        raise UserError(f"{path} is a run of supervised fine-tuning. Go on with it: {resume_call(opened)}")
    require_given(opened, code)
    if not changes and step is None:
        return go(opened, observer, code)
    from refine_rl.pipeline.resume import reopen  # late: torch

    try:
        with showing(None, observer) as shown:
            folder = reopen(path, changes, step, given=code, observer=shown)
    except UserError as mistake:
        raise in_own_words(mistake) from None
    return go(folder, observer, code)


def sft(
    data: str | Path | Iterable[Mapping[str, Any]],
    *,
    task: str | Path = "Imitate the answers.",
    model: Model = None,
    run: str | Path | None = None,
    observer: Observer | None = None,
    rollout: Section | None = None,
    budget: Section | None = None,
    track: Section | None = None,
    **settings: Any,
) -> SFTRun:
    """Trains a model on answers to imitate (supervised fine-tuning).

    Args:
        data: a file of rows, "file:PATH" or "hub:OWNER/NAME", or a list of rows (dicts with `prompt` and
            `answer`, or with `messages`).
        task: what is wanted, in plain words; or the path of a task.toml.
        model: a hub id, a folder or "tiny"; or the [model] section as a dict.
        run: the run's folder; without it, a new one below runs/.
        observer: hears the progress; without it, it is shown.
        rollout, budget, track: these sections as dicts.
        settings: those of [sft]: `steps=500`, `epochs=3`, `learning_rate=2e-4`, `validation=50` ...

    Raises UserError for what the arguments, files or model do not allow, GuardStop where a guard ended
    the training, MachineError where the machine failed, Interrupted after Ctrl-C or a kernel's interrupt:
    these say how `resume_sft` goes on.
    """
    take_part()
    rows: str | None = None
    sections = {"rollout": rollout, "budget": budget, "track": track}
    given = {name: section for name, section in sections.items() if section is not None}
    checks.data(data)
    if isinstance(data, str | Path):
        source = source_of(str(data), ("file:", "hub:"))
    else:
        rows, source = rows_of(data, "data"), "file:rows.jsonl"
    asked = Task(task=task, model=model, sections={**given, "sft": {**settings, "data": source}})
    _check(asked.check, run, observer)
    whole = asked.settings()
    with new_run(None if run is None else Path(run), whole.name or "sft") as folder:
        if rows is not None:
            whole = _with_data(whole, folder.give_prompts(rows))
        folder.begin(whole, kind="sft")
        return _go_sft(folder, observer)


def resume_sft(
    run: str | Path | SFTRun,
    *,
    step: int | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line's --set
    steps: int | None = None,
    observer: Observer | None = None,
) -> SFTRun:
    """Goes on with a run of supervised fine-tuning exactly where it stopped; one that is finished, to more
    steps.

    Args:
        run: the run's folder.
        step: go back to the checkpoint of this step first (0: the start).
        set: settings to change from here on, by their keys: `set={"sft.learning_rate": 1e-4}`.
        steps: so many steps in all, whatever the settings say.
        observer: hears the progress; without it, it is shown.

    Raises UserError where there is no such run, or where rows or model would be others; else what `sft`
    raises.
    """
    take_part()
    path = folder_of(run)
    checks.number("step", step, least=0)
    checks.number("steps", steps, least=1)
    checks.observer(observer)
    changes = checks.overrides(set)
    opened = opened_run(path)
    if opened.config.kind() != "sft":
        raise UserError(f"{path} is no run of supervised fine-tuning. Go on with it: {resume_call(opened)}")
    from refine_rl.pipeline.resume import reopen_sft  # late: torch

    try:
        with showing(None, observer) as shown:
            folder = reopen_sft(path, changes, step, steps=steps, observer=shown)
    except UserError as mistake:
        raise in_own_words(mistake) from None
    return _go_sft(folder, observer)


def open_run(run: str | Path) -> Run:
    """A finished run from its folder; raises UserError where there is none, or where it is not finished."""
    folder = opened_run(folder_of(run))
    if folder.config.kind() == "sft":
        raise UserError(f"{folder.path} is a run of supervised fine-tuning, which compares nothing.")
    comparison = folder.comparison()
    if comparison is None:
        raise UserError(f"{folder.path} is not finished. Go on with it: {resume_call(folder)}")
    return Run(folder=folder.path, comparison=comparison)


def folder_of(run: object, name: str = "run") -> Path:
    """The folder of a run, or of what `train` gave back."""
    found = run.folder if isinstance(run, Run | SFTRun) else run
    checks.path(name, found, "a run's folder")
    return Path(str(found))


def opened_run(path: Path) -> RunFolder:
    return RunFolder.open(path.expanduser())


def _check(arguments: Callable[[], None], run: str | Path | None, observer: Observer | None) -> None:
    """All mistakes at once, those of a new run's folder among them."""
    checks.every(arguments, lambda: checks.observer(observer), lambda: _require_free(run))


def _require_free(run: str | Path | None) -> None:
    """Raises UserError where there is something in the place of a new run."""
    if run is None:
        return
    checks.path("run", run)
    path = Path(run)
    if not taken_by(path):
        return
    folder = RunFolder(path)
    if folder.begun:
        raise UserError(
            f"run={str(path)!r} is there already. Go on with it: {resume_call(folder)}; or name another "
            "folder."
        )
    raise UserError(f"run={str(path)!r} is there already and is no run; name another folder.")


def _with_data(settings: Settings, file: Path) -> Settings:
    if settings.sft is None:
        return settings
    own = settings.sft.model_copy(update={"data": f"file:{file.resolve()}"})
    return settings.model_copy(update={"sft": own})


def _go_sft(folder: RunFolder, observer: Observer | None) -> SFTRun:
    def work(pause: Pause) -> SFTRun:
        with showing(folder, observer) as shown:
            from refine_rl.pipeline.sft import run as run_pipeline  # late: torch

            losses = run_pipeline(folder, observer=shown, pause=pause)
        return SFTRun(folder=folder.path, before=losses.before, after=losses.after, training=losses.training)

    return training(folder, work)
