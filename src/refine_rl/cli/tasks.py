"""refine recipes, refine init, refine prompts: before a training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer

from refine_rl.cli.training import JSON, SET, program
from refine_rl.errors import UserError


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
) -> None:
    """Make a folder with a commented task.toml. From a recipe, or from one sentence."""
    from refine_rl.recipes import copy_recipe, write_task

    if recipe is not None and sentence is not None:
        raise UserError("Start from a recipe or from a sentence, not from both.")
    if recipe is not None:
        copy_recipe(recipe, folder)
    else:
        write_task(folder, sentence)
    for file in sorted(folder.iterdir()):
        typer.echo(f"  {file}")
    if recipe is None:
        typer.echo(
            "\nThe prompts and the reward are an example, for polite and brief answers. What makes an "
            f"answer good\nis for you to say: [reward] in {folder / 'task.toml'}, and "
            f"{folder / 'rewards.py'}."
        )
    typer.echo(f"\nRead {folder / 'task.toml'}, then: {program()} train {folder / 'task.toml'}")


def prompts(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe instead."),
    out: Path | None = typer.Option(None, "--out", help="Write the prompts to this JSONL file."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Load the prompts and split them. Shows what was dropped, the coverage and a few of each split."""
    from refine_rl.cli.screen import shown
    from refine_rl.config_file import load_settings
    from refine_rl.prompts.sources import load_prompts

    if out is not None and out.exists():
        raise UserError(f"{out} exists already; name a new file.")
    found, report = load_prompts(load_settings(task, recipe=recipe, overrides=overrides))
    records = [dataclasses.asdict(prompt) for prompt in found]
    if out is not None:
        out.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(records))
        return
    for line in report.lines():
        typer.echo(shown(line))
    for split in ("train", "validation", "held_out"):
        typer.echo(f"\n{split}:")
        for prompt in [p for p in found if p.split == split][:3]:
            typer.echo(f"  {prompt.id}  {shown(' '.join(prompt.text.split()))[:120]}")
    if out is not None:
        typer.echo(f"\nwritten to {out}")
