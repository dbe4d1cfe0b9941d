"""refine recipes, refine init, refine prompts: before a training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer

from refine_rl.cli.interrupt import interruptible
from refine_rl.cli.training import JSON, SET, program
from refine_rl.errors import UserError, quoted


def add_to(app: typer.Typer) -> None:
    app.command()(recipes)
    app.command()(init)
    app.command()(prompts)


def recipes(as_json: bool = JSON) -> None:
    """List the ready tasks."""
    from refine_rl.recipes import recipes as listed

    found = listed()
    if as_json:
        typer.echo(json.dumps([{"name": r.name, "summary": r.summary} for r in found]))
        return
    width = max(len(r.name) for r in found)
    for recipe in found:
        typer.echo(f"{recipe.name:<{width}}  {recipe.summary}")
    typer.echo(
        "\nTrain one: refine train --recipe NAME.  Copy one to change it: refine init MINE --recipe NAME"
    )


def init(
    folder: Path = typer.Argument(..., help="The folder to make."),
    recipe: str | None = typer.Option(None, "--recipe", help="Start from a copy of this recipe."),
    sentence: str | None = typer.Option(None, "--task", "--sentence", help="What you want, in one sentence."),
    writer: str | None = typer.Option(
        None, "--writer", metavar="ENDPOINT/MODEL", help="With --judge: the LLM that writes the prompts."
    ),
    judge: str | None = typer.Option(
        None, "--judge", metavar="ENDPOINT/MODEL", help="With --writer: the LLM that judges the answers."
    ),
    model: str | None = typer.Option(None, "--model", help="The model to train."),
) -> None:
    """Make a folder with a commented task.toml. From a recipe, or from one sentence."""
    from refine_rl.recipes import copy_recipe, write_judged_task, write_task

    if recipe is not None and (sentence or writer or judge or model):
        raise UserError("Start from a recipe or from a sentence, not from both.")
    if (writer is None) != (judge is None) or (writer and not (sentence or "").strip()):
        raise UserError(
            "A task without data needs all three: --task SENTENCE --writer ENDPOINT/MODEL "
            "--judge ENDPOINT/MODEL."
        )
    if recipe is not None:
        copy_recipe(recipe, folder)
    elif writer is not None and judge is not None:
        write_judged_task(folder, str(sentence), writer=writer, judge=judge, model=model)
    else:
        write_task(folder, sentence, model)
    for file in sorted(folder.iterdir()):
        typer.echo(f"  {file}")
    task = folder / "task.toml"
    if writer is not None:
        typer.echo(
            f"\nBefore anything is spent: {program()} plan {quoted(task)}\n"
            f"To see the prompts: {program()} prompts {quoted(task)}"
        )
    elif recipe is None:
        typer.echo(
            "\nThe prompts and the reward are an example, for polite and brief answers. What makes an "
            f"answer good\nis for you to say: [reward] in {task}, and {folder / 'rewards.py'}.\n"
            "With no prompts of your own, let LLMs write them and judge the answers: --task SENTENCE\n"
            "--writer ENDPOINT/MODEL --judge ENDPOINT/MODEL."
        )
    typer.echo(f"\nRead {task}, then: {program()} train {quoted(task)}")


def prompts(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe instead."),
    out: Path | None = typer.Option(None, "--out", help="Write the prompts to this JSONL file."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Load or write the prompts, and split them. Shows what was dropped, the coverage and a few of each."""
    from refine_rl.cli.screen import shown, talk
    from refine_rl.config_file import load_settings
    from refine_rl.gathering import gather_prompts
    from refine_rl.runs.disk import write_whole

    if out is not None and out.exists():
        raise UserError(f"{out} exists already; name a new file.")
    settings = load_settings(task, recipe=recipe, overrides=overrides)
    console = talk()
    with interruptible() as pause:
        gathered = gather_prompts(settings, lambda line: console.print(shown(line), markup=False), pause)
    found = gathered.prompts
    records = [dataclasses.asdict(prompt) for prompt in found]
    if out is not None:
        write_whole(out, "".join(json.dumps(r) + "\n" for r in records))
    if as_json:
        typer.echo(json.dumps(records))
        return
    for line in gathered.report.lines():
        typer.echo(shown(line))
    if settings.writes_prompts:
        typer.echo(gathered.cost())
    for split in ("train", "validation", "held_out"):
        typer.echo(f"\n{split}:")
        for prompt in [p for p in found if p.split == split][:3]:
            typer.echo(f"  {prompt.id}  {shown(' '.join(prompt.text.split()))[:120]}")
    if out is not None:
        typer.echo(f"\nwritten to {out}")
