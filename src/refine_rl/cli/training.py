"""refine train, refine demo."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.interrupt import StopNow, interruptible
from refine_rl.errors import DiskError, GuardStop, Interrupted, MachineError, UserError, quoted

if TYPE_CHECKING:
    from refine_rl.progress import Pause
    from refine_rl.run import RunFolder
    from refine_rl.settings import Settings
    from refine_rl.types import Comparison

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a setting: --set grpo.steps=50.")
JSON = typer.Option(False, "--json", help="Print the result as JSON on standard output.")


def program() -> str:
    """How to call this program again, as a shell takes it: `refine` where it is found, else its path."""
    import shutil
    import sys

    if shutil.which("refine"):
        return "refine"
    called = Path(sys.argv[0])
    module = called.name == "__main__.py"
    return f"{quoted(sys.executable)} -m refine_rl" if module else quoted(called)


def one_task(command: str, task: Path | None, recipe: str | None) -> None:
    """Raises UserError unless exactly one is named."""
    if task is not None and recipe is not None:
        raise UserError("A task and a recipe are two tasks: leave one of them out.")
    if task is None and recipe is None:
        ready = "codet5" if command == "sft" else "style"
        raise UserError(
            f"Name a task.toml (refine {command} task.toml) or a recipe (refine {command} --recipe {ready})."
        )


def demo(
    recipe: str = typer.Argument(
        "style", metavar="RECIPE", help="Of `refine recipes`: style, guess, wordle ..."
    ),
    run: Path | None = typer.Option(None, "--run", help="The run's folder; without it, a new one in runs/."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Train a ready task, offline. Base against tuned, in minutes: the bundled model on the style task, or a
    recipe that brings its own model, such as guess or wordle."""
    from refine_rl.pipeline.launch import take_part
    from refine_rl.recipes import load_task

    take_part()
    settings = load_task(None, recipe=recipe, overrides=overrides)
    _start(run, "demo" if recipe == "style" else f"demo-{recipe}", settings, as_json)


def train(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="Train a bundled recipe, without a task.toml."),
    run: Path | None = typer.Option(None, "--run", help="The run's folder, where runs/NAME will not do."),
    resume: Path | None = typer.Option(None, "--resume", help="Go on with this run where it stopped."),
    from_step: int | None = typer.Option(
        None, "--from-step", min=0, help="With --resume: go back to this checkpoint first (0: the start)."
    ),
    seeds: int | None = typer.Option(
        None, "--seeds", metavar="N", help="Train N times, with N seeds: an interval over training seeds."
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Train, and prove that it worked. Prompts, base model, training, comparison, report."""
    from refine_rl.cli.seeds import begin, go_on, several
    from refine_rl.pipeline.launch import take_part
    from refine_rl.recipes import load_task
    from refine_rl.report.screen import Screen

    take_part()
    one_beginning(resume, from_step, task or recipe or run)
    if resume is not None and several(resume, seeds, overrides, from_step):
        go_on(resume, _trained, as_json)
        return
    if resume is not None:
        with Screen() as screen:
            from refine_rl.pipeline.resume import reopen  # late: torch, seconds of a machine at work

            folder = reopen(resume, overrides, from_step, observer=screen)
        _work(folder, as_json)
        return
    one_task("train", task, recipe)
    settings = load_task(task, recipe=recipe, overrides=overrides)
    name = settings.name or recipe or settings.folder.resolve().name
    if seeds is not None:
        begin(run, name, settings, seeds, _trained, as_json)
        return
    _start(run, name, settings, as_json)


def one_beginning(resume: Path | None, from_step: int | None, anew: object) -> None:
    """Raises UserError where a run is to be resumed and begun `anew`, or gone back in without being
    resumed."""
    if resume is not None and anew:
        raise UserError("--resume takes the run's folder alone: its settings are in the folder.")
    if resume is None and from_step is not None:
        raise UserError("--from-step goes with --resume: it names a checkpoint of that run.")


def _start(path: Path | None, name: str, settings: Settings, as_json: bool) -> None:
    from refine_rl.cli.going_on import told_of_earlier
    from refine_rl.run import new_run

    with new_run(path, name) as folder:
        folder.begin(settings)
        if path is None:
            told_of_earlier(folder, name, program())
        _work(folder, as_json)


def _elsewhere(error: MachineError, go_on: str) -> str:
    """How to go on with an endpoint at another address, or with a key: the run does not read the task file
    again."""
    from refine_rl.llm.client import changed_endpoint

    if (change := changed_endpoint(error)) is None:
        return ""
    when, key, value = change
    return f"\n{when}: {go_on} --set {key}={value}"


@contextlib.contextmanager
def going_on(folder: RunFolder) -> Iterator[Pause]:
    """Long work on a run; whatever ends it early says how to go on."""
    report, go_on = folder.report, folder.config.resume(program=program())
    try:
        with interruptible() as pause:
            yield pause
    except Interrupted as stop:
        raise Interrupted(f"{stop} The state was saved. Go on with: {go_on}") from stop
    except StopNow as stop:
        raise StopNow(f"{stop} Go on with: {go_on}") from stop
    except GuardStop as stop:
        from refine_rl.cli.going_on import commands

        rest = f"The state was saved. Report: {report}\n{commands(stop, folder, go_on)}"
        raise GuardStop(stop.guard, stop.what, f"{stop.advice}\n{rest}") from stop
    except DiskError as error:
        raise DiskError(f"{error}\n{_saved(folder)} Go on with: {go_on}") from error
    except MachineError as error:
        rest = f"The state was saved. Go on with: {go_on}{_elsewhere(error, go_on)}"
        raise type(error)(f"{error}\n{rest}") from error


def _trained(folder: RunFolder) -> Comparison:
    """What comes of a run, trained before a person's eyes from wherever it stands."""
    from refine_rl.report.screen import Screen
    from refine_rl.report.showing import places

    with going_on(folder) as pause, Screen(folder) as screen:
        screen.head(places(folder, program()))
        from refine_rl.pipeline.train import run

        return run(folder, observer=screen, pause=pause)


def _work(folder: RunFolder, as_json: bool) -> None:
    from refine_rl.report.screen import print_comparison, results, say

    comparison = _trained(folder)
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **dataclasses.asdict(comparison)}))
        return
    print_comparison(comparison)
    if calls := folder.calls():
        from refine_rl.report.asked import bills, summary

        say(results(), f"\nLLM calls: {summary(bills(calls))}")
    print_places(folder)
    print_after(folder, comparison)


def print_after(folder: RunFolder, comparison: Comparison) -> None:
    """What to try where that comparison did not show a better model: each command in a line of its own."""
    from refine_rl.report.next_steps import after_verdict
    from refine_rl.report.screen import results, say

    console = results()
    for command in after_verdict(folder, folder.settings(), comparison):
        say(console, f"\n{command.what}")
        shown = command.text
        if shown.startswith("refine "):  # a call stays as it is
            shown = program() + shown.removeprefix("refine")
        say(console, f"  {shown}", under=4)


def print_places(folder: RunFolder) -> None:
    """Where the files of a finished run are."""
    from refine_rl.report.screen import results, say

    where = quoted(folder.path)
    lines = [f"report: {folder.report}", f"model:  {folder.model}", f"talk to it: {program()} chat {where}"]
    if folder.outcomes("tuned") is not None:
        lines.append(f"vote on its answers, blind: {program()} review {where}")
    say(results(), "\n" + "\n".join(lines))


def _saved(folder: RunFolder) -> str:
    """What of the run is on the disk, in a sentence."""
    try:
        steps, checkpoints = folder.recorded_to(), folder.checkpoints()
    except UserError as damaged:
        return str(damaged)
    if not steps:
        return "No step was trained yet; what was made before that is saved."
    newest = f"; the newest checkpoint is that of step {checkpoints[-1]}" if checkpoints else ""
    return f"{steps} steps are saved{newest}."
