"""refine recipes, refine init, refine prompts: before a training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.interrupt import interruptible
from refine_rl.cli.training import JSON, SET, program
from refine_rl.errors import UserError, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from refine_rl.prompts.curate import Dropped
    from refine_rl.types import Prompt


def recipes(as_json: bool = JSON) -> None:
    """List the ready tasks."""
    from refine_rl.recipes import recipes as listed
    from refine_rl.report.screen import results, say

    found = listed()
    if as_json:
        typer.echo(json.dumps([{"name": r.name, "summary": r.summary} for r in found]))
        return
    width = max(len(r.name) for r in found)
    for recipe in found:
        say(results(), f"{recipe.name:<{width}}  {recipe.summary}", under=width + 2)
    say(
        results(),
        "\nTrain one: refine train --recipe NAME\nCopy one to change it: refine init MINE --recipe NAME",
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
    from refine_rl.report.screen import results, say

    if sentence is not None and not sentence.strip():
        raise UserError("--task is empty; say in plain words what is wanted.")
    if recipe is not None and (sentence or writer or judge):
        raise UserError("Start from a recipe or from a sentence, not from both.")
    if recipe is not None and model is not None:
        raise UserError(
            "A copy of a recipe keeps the recipe's model: leave --model out, and change `name` in [model] of "
            f"{quoted(folder / 'task.toml')} then."
        )
    if (writer is None) != (judge is None) or (writer and sentence is None):
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
        say(results(), f"  {file}")
    say(results(), f"\n{_next_steps(folder, sentence, recipe=recipe is not None, judged=writer is not None)}")


def _next_steps(folder: Path, sentence: str | None, *, recipe: bool, judged: bool) -> str:
    """What to read, to replace and to type after `refine init`."""
    from refine_rl.recipes.examples import REWARD, TO_REPLACE, example_task, same_task

    task = quoted(folder / "task.toml")
    train = f"Read {task}, then: {program()} train {task}"
    if recipe:
        return train
    if judged:
        return (
            f"Before anything is spent: {program()} plan {task}\n"
            f"To see the prompts: {program()} prompts {task}\n\n{train}"
        )
    other = quoted(folder.with_name(f"{folder.name}-judged"))
    judges = "--writer openrouter/moonshotai/kimi-k2 --judge openrouter/deepseek/deepseek-r1"
    said = sentence or ""
    if not said.strip() or same_task(said, example_task()):
        return (
            "The prompts and the reward are an example, for polite and brief answers. What makes an answer "
            f"good is for you to say: [reward] in {task}, and {folder / REWARD}.\n\n{train}"
        )
    width = max(len(str(folder / name)) for name in TO_REPLACE)
    files = "".join(f"  {folder / name!s:<{width}}  {what}\n" for name, what in TO_REPLACE.items())
    return (
        f"To be replaced before training (until then it is refused):\n{files}"
        "With no prompts of your own, let LLMs write them and judge the answers:\n"
        f"  {program()} init {other} --task {quoted(said.strip())} {judges}\n\n{train}"
    )


def prompts(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe instead."),
    out: Path | None = typer.Option(None, "--out", help="Write the prompts to this JSONL file."),
    replies: Path | None = typer.Option(
        None, "--replies", help="A new JSONL file for what the writer was asked and replied, a line a call."
    ),
    dropped: bool = typer.Option(
        False, "--dropped", help="List what was dropped or set aside, and why, in place of the prompts."
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Load or write the prompts, and split them. Shows what was dropped, the coverage and a few of each."""
    from refine_rl.pipeline.prompts import gather_prompts
    from refine_rl.prompts.curate import excerpt
    from refine_rl.prompts.sources import TooFewError
    from refine_rl.recipes import load_task
    from refine_rl.report.screen import Screen, results, say, talk
    from refine_rl.run.files import write_whole

    if out is not None and out.exists():
        raise UserError(f"{out} exists already; name a new file.")
    settings = load_task(task, recipe=recipe, overrides=overrides)
    console = talk()
    try:
        with interruptible() as pause, Screen() as shown:
            gathered = gather_prompts(
                settings,
                lambda line: say(console, line),
                pause,
                replies=replies,
                counted=partial(shown.count, "prompts written"),
            )
    except TooFewError as error:
        if dropped:  # just then it is wanted
            _list_dropped(error.report.dropped, as_json)
        raise
    found = gathered.prompts
    records = [dataclasses.asdict(prompt) for prompt in found]
    if out is not None:
        write_whole(out, "".join(json.dumps(r) + "\n" for r in records))
    if dropped:
        _list_dropped(gathered.report.dropped, as_json)
        return
    if as_json:
        typer.echo(json.dumps(records))
        return
    screen = results()
    for line in gathered.report.summary():
        say(screen, line)
    _show_coverage(screen, found)
    if settings.writes_prompts:
        say(screen, gathered.cost())
    for split in ("train", "validation", "held_out"):
        say(screen, f"\n{split}:")
        for prompt in [p for p in found if p.split == split][:3]:
            say(screen, f"  {prompt.id}  {excerpt(prompt.text, 120)}", under=4 + len(prompt.id))
    if out is not None:
        say(screen, f"\nwritten to {out}")


def _show_coverage(screen: Console, prompts: Sequence[Prompt]) -> None:
    """The table as everywhere; where that would be too wide or would cut names, a facet above its values."""
    from rich.cells import cell_len

    from refine_rl.report.columns import Columns
    from refine_rl.report.coverage import cover
    from refine_rl.report.screen import say, shown

    coverage = cover(prompts)
    lines = coverage.lines()
    (head, *rows), table = coverage.rows(), lines[: len(coverage.rows())]
    too_wide = screen.is_terminal and max(map(cell_len, table), default=0) > screen.width
    if too_wide or any("…" in line for line in table):
        stacked = Columns(first=f"{head[0]} and {head[1]}", headings=head[2:])
        for facet, value, *counts in rows:
            if facet:
                stacked.add(shown(facet))
            stacked.add(f"  {shown(value)}", counts if any(counts) else ())
        stacked.show(screen)
        lines = lines[len(table) :]
    for line in lines:
        say(screen, line)


def _list_dropped(dropped: Sequence[Dropped], as_json: bool) -> None:
    """A line for each: where it stood, why it is no prompt, how it begins."""
    from refine_rl.prompts.curate import excerpt
    from refine_rl.report.screen import results, say

    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in dropped]))
        return
    for one in dropped:
        text = "" if not one.text or one.origin.startswith("“") else f": {excerpt(one.text)}"
        say(results(), f"{one.origin}  {one.kind}, {one.why}{text}", under=4)
    if not dropped:
        typer.echo("nothing was dropped")
