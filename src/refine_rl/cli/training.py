"""refine train, refine demo."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.errors import Interrupted, UserError

if TYPE_CHECKING:
    from refine_rl.runs import RunFolder

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a setting: --set grpo.steps=50.")
JSON = typer.Option(False, "--json", help="Print the result as JSON on standard output.")


def add_to(app: typer.Typer) -> None:
    app.command()(demo)
    app.command()(train)


def demo(
    run: Path | None = typer.Option(None, "--run", help="The run's folder; without it, a new runs/demo."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Train the bundled model on the bundled style task: base against tuned, in two minutes, offline."""
    from refine_rl.config_file import load_settings
    from refine_rl.runs import RunFolder, free_name

    settings = load_settings(None, recipe="style", overrides=overrides)
    _work(RunFolder.create(run or free_name(Path("runs"), "demo"), settings), as_json)


def train(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="Train a bundled recipe, without a task.toml."),
    run: Path | None = typer.Option(None, "--run", help="The run's folder, where runs/NAME will not do."),
    resume: Path | None = typer.Option(None, "--resume", help="Go on with this run where it stopped."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Everything: prompts, base model, training, comparison, report."""
    from refine_rl.config_file import load_settings
    from refine_rl.runs import RunFolder, free_name

    if resume is not None:
        if task or recipe or run:
            raise UserError("--resume takes the run's folder alone: its settings are in the folder.")
        _work(_reopen(resume, overrides), as_json)
        return
    if (task is None) == (recipe is None):
        raise UserError(
            "Name a task.toml (refine train task.toml) or a recipe (refine train --recipe style)."
        )
    settings = load_settings(task, recipe=recipe, overrides=overrides)
    name = settings.name or recipe or settings.folder.resolve().name
    _work(RunFolder.create(run or free_name(Path("runs"), name), settings), as_json)


def _reopen(path: Path, overrides: list[str]) -> RunFolder:
    from refine_rl.config_file import override
    from refine_rl.runs import RunFolder

    folder = RunFolder.open(path)
    if names := folder.python_rewards():
        raise UserError(
            f"The reward functions {', '.join(names)} of this run came from Python; go on there: "
            f"refine_rl.resume({str(path)!r}, rewards=[{', '.join(names)}])"
        )
    if overrides:
        before = folder.settings()
        after = override(before, overrides)
        for fixed in ("task", "model", "prompts"):
            if getattr(before, fixed) != getattr(after, fixed):
                raise UserError(f"--set {fixed}: this cannot change within a run; start a new one.")
        if before.grpo.seed != after.grpo.seed:
            raise UserError("--set grpo.seed: this cannot change within a run; start a new one.")
        folder.save_settings(after)
    return folder


def _work(folder: RunFolder, as_json: bool) -> None:
    from refine_rl.cli.screen import Screen, interruptible, print_comparison, results, talk

    talk().print(f"Run: {folder.path}", markup=False)
    try:
        with interruptible() as pause:
            from refine_rl.pipeline import run

            comparison = run(folder, observer=Screen(), pause=pause)
    except UserError:
        folder.abandon()
        raise
    except Interrupted as stop:
        raise Interrupted(f"{stop} Go on with: refine train --resume {folder.path}") from stop
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **dataclasses.asdict(comparison)}))
        return
    print_comparison(comparison)
    results().print(
        f"\nreport: {folder.path / 'report.html'}\nmodel:  {folder.model}\n"
        f"talk to it: refine chat {folder.path}",
        markup=False,
    )
