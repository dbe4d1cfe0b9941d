"""refine doctor: everything that a run depends on, looked at before it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.training import JSON, SET, one_task, program
from refine_rl.errors import SettingsError, UserError, quoted
from refine_rl.progress import Quiet
from refine_rl.types import count_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from refine_rl.pipeline.doctor.found import Examination, Finding
    from refine_rl.pipeline.doctor.subject import Command
    from refine_rl.settings import Settings

_NAME = 13  # columns of the names
_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red"), "skipped": ("–", "dim")}
_PLAIN = {"ok": "ok", "warning": "!!", "error": "XX", "skipped": "--"}


def doctor(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe instead."),
    offline: bool = typer.Option(False, "--offline", help="Ask no endpoint and no server."),
    yes: bool = typer.Option(False, "--yes", help="Ask the LLMs without asking you first."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Look at everything that a run depends on. Model, template, stop tokens, adapter, endpoints, reward,
    memory: a tick, a warning or an error each, with advice. Exit code 2 where there is an error."""
    from refine_rl.pipeline.doctor.found import Examination
    from refine_rl.pipeline.doctor.subject import Command
    from refine_rl.report.screen import results, talk

    one_task("doctor", task, recipe)
    live = not as_json and sys.stdout.isatty() and sys.stderr.isatty()
    console = talk()
    exam = Examination(lambda found: _show(found, console) if live else None)
    settings = _settings(exam, task, recipe, overrides)
    if settings is not None:
        command = Command(
            program=program(),
            which=f"--recipe {recipe}" if task is None else quoted(task),
            overrides=tuple(overrides),
        )
        _examine(exam, settings, command, console if live else None, offline=offline, yes=yes)
    errors = sum(found.status == "error" for found in exam.findings)
    warnings = sum(found.status == "warning" for found in exam.findings)
    if as_json:
        checks = [dataclasses.asdict(found) for found in exam.findings]
        typer.echo(json.dumps({"errors": errors, "warnings": warnings, "checks": checks}))
    else:
        for found in () if live else exam.findings:
            _show(found, results())
        _sum_up(results(), errors, warnings)
    if errors:
        raise typer.Exit(UserError.exit_code)


def _settings(
    exam: Examination, task: Path | None, recipe: str | None, overrides: list[str]
) -> Settings | None:
    """The settings; None where they cannot be, which is an error like any other. A task that is not there is
    the caller's mistake."""
    from refine_rl.recipes import load_task

    if task is not None and not task.exists():
        return load_task(task, recipe=recipe, overrides=overrides)  # raises, with the nearest name
    try:
        return load_task(task, recipe=recipe, overrides=overrides)
    except SettingsError as error:
        exam.fail("settings", str(error))
        exam.skip("all else", "Not looked at: it follows from the settings")
        return None


def _examine(
    exam: Examination,
    settings: Settings,
    command: Command,
    console: Console | None,
    *,
    offline: bool,
    yes: bool,
) -> None:
    """Looks; meanwhile a terminal's last line says at what."""
    from refine_rl.cli.interrupt import interruptible

    with interruptible() as pause, contextlib.ExitStack() as shown:
        from refine_rl.pipeline.doctor.examine import examine
        from refine_rl.pipeline.doctor.subject import Subject

        observer = _Silent() if console is None else _Last(shown.enter_context(console.status("")))
        it = Subject(exam=exam, settings=settings, command=command, observer=observer, pause=pause)
        examine(it, agree=lambda words: yes or observer.agreed(words), offline=offline)


def _agreed(words: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"{words} There is no terminal to ask you on: say --yes, or --offline.")
    return typer.confirm(f"{words} Go on?", err=True)


class _Silent(Quiet):
    """Nobody watches."""

    def agreed(self, words: str) -> bool:
        return _agreed(words)


class _Last(Quiet):
    """Says in a terminal's last line what is looked at; `status` is that line."""

    def __init__(self, status: Status) -> None:
        self._status, self._stage = status, ""

    def stage(self, text: str) -> None:
        self._stage = text
        self._show(text)

    def count(self, what: str, done: int, of: int) -> None:
        self._show(f"{self._stage}: {what} {done}/{of}")

    def _show(self, text: str) -> None:
        from rich.text import Text

        self._status.update(Text(text, style="dim"))

    def agreed(self, words: str) -> bool:
        """Asks; the line makes room for the question."""
        self._status.stop()
        try:
            return _agreed(words)
        finally:
            self._status.start()


# -- what it looks like -----------------------------------------------------------------------------


def _show(found: Finding, console: Console) -> None:
    """A line, and what to do below it; on a terminal with a sign in its colour."""
    from refine_rl.report.screen import say

    sign, colour = _SIGNS[found.status]
    if not str(console.encoding).lower().startswith("utf"):
        sign = _PLAIN[found.status]
    inner = _NAME + len(sign) + 1
    style = "" if found.status == "ok" else colour
    first, *others = found.text.splitlines()
    say(console, f"{sign} {found.check:<{_NAME}}{first}", style, under=inner)
    for line in others:
        say(console, f"{' ' * inner}{line}", style, under=inner)
    for line in found.advice.splitlines():
        say(console, f"{' ' * inner}{line}", under=inner)


def _sum_up(console: Console, errors: int, warnings: int) -> None:
    from refine_rl.report.screen import say

    console.print()
    if errors:
        told = (
            f"{count_of(errors, 'error')}, {count_of(warnings, 'warning')}: a run would not do as it stands."
        )
        say(console, told, "red")
    elif warnings:
        say(console, f"{count_of(warnings, 'warning')}, no error: a run can begin.", "yellow")
    else:
        say(console, "All is well: a run can begin.", "green")
