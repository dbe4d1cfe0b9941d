"""refine sft: supervised fine-tuning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.training import JSON, going_on, one_beginning, one_task, print_places, program

if TYPE_CHECKING:
    from refine_rl.run import RunFolder

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a setting: --set sft.epochs=3.")


def sft(
    task: Path | None = typer.Argument(
        None, help="A task.toml with a table [sft], or a folder that has one."
    ),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe, without a task.toml."),
    steps: int | None = typer.Option(
        None, "--steps", min=1, help="So many updates, whatever the task says: a trial before a long run."
    ),
    run: Path | None = typer.Option(None, "--run", help="The run's folder, where runs/NAME-sft will not do."),
    resume: Path | None = typer.Option(None, "--resume", help="Go on with this run where it stopped."),
    from_step: int | None = typer.Option(
        None, "--from-step", min=0, help="With --resume: go back to this checkpoint first (0: the start)."
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Train on answers to imitate (supervised fine-tuning). Rows, training, validation loss, report."""
    from refine_rl.cli.going_on import told_of_earlier
    from refine_rl.pipeline.launch import take_part
    from refine_rl.recipes import load_task
    from refine_rl.run import new_run

    take_part()
    one_beginning(resume, from_step, task or recipe or run)
    if resume is not None:
        from refine_rl.report.screen import Screen

        with Screen() as screen:
            from refine_rl.pipeline.resume import reopen_sft  # late: torch, seconds of a machine at work

            folder = reopen_sft(resume, overrides, from_step, steps=steps, observer=screen)
        _work(folder, as_json)
        return
    one_task("sft", task, recipe)
    settings = load_task(task, recipe=recipe, overrides=overrides).with_sft_steps(steps)
    name = settings.name or recipe or settings.folder.resolve().name
    with new_run(run, f"{name}-sft") as folder:
        folder.begin(settings, kind="sft")
        if run is None:
            told_of_earlier(folder, f"{name}-sft", program())
        _work(folder, as_json)


def _work(folder: RunFolder, as_json: bool) -> None:
    from refine_rl.report.screen import Screen, results, say
    from refine_rl.report.showing import places

    with going_on(folder) as pause, Screen(folder) as screen:
        screen.head(places(folder, program()))
        from refine_rl.pipeline.sft import run

        losses = run(folder, observer=screen, pause=pause)
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **dataclasses.asdict(losses)}))
        return
    say(results(), f"\n{losses}")
    print_places(folder)
