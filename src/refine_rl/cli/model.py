"""refine chat, refine export: the tuned model in use."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import typer

from refine_rl.errors import UserError, quoted


def add_to(app: typer.Typer) -> None:
    app.command()(chat)
    app.command()(export)


def chat(
    run: Path = typer.Argument(..., help="A run with a tuned model."),
    base: bool = typer.Option(False, "--base", help="Show the untrained model's answer as well."),
    temperature: float = typer.Option(0.0, "--temperature", min=0.0, help="0: the most likely answer."),
    max_tokens: int | None = typer.Option(
        None, "--max-tokens", min=1, help="An answer is cut here; without it, the run's limit."
    ),
    system: str | None = typer.Option(None, "--system", help="Without it, the run's own system message."),
) -> None:
    """Talk to the tuned model. Every message stands alone, as in training; an empty line ends."""
    from refine_rl.again import open_model
    from refine_rl.chatting import reply
    from refine_rl.cli.screen import print_error, results, shown, talk
    from refine_rl.runs import RunFolder

    settings, policy = open_model(RunFolder.open(run))
    system = settings.prompts.system if system is None else system
    limit = max_tokens or settings.rollout.max_tokens
    messages, console = talk(), results()
    messages.print(f"{settings.model.name}, tuned: {shown(settings.task.strip())}", markup=False)
    messages.print("Every message stands alone. An empty line ends.")
    turn = 0
    while text := _next_message():
        turn += 1
        try:
            if base:
                with policy.reference() as untrained:
                    answer = reply(untrained, text, system, temperature, limit, turn)
                console.print(f"base:  {shown(answer)}", markup=False)
            answer = reply(policy, text, system, temperature, limit, turn)
            console.print(f"tuned: {shown(answer)}", markup=False)
        except UserError as mistake:
            print_error(mistake)


def _next_message() -> str:
    """What the person writes next; "" at an empty line and at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def export(
    run: Path = typer.Argument(..., help="A run with a tuned model."),
    out: Path = typer.Option(..., "--out", help="The folder to write; it must not exist yet."),
    merged: bool = typer.Option(False, "--merged", help="One ordinary model, the adapter merged in."),
) -> None:
    """Write the tuned model to a new folder. transformers loads it, and so does all that reads its form."""
    from refine_rl.runs import RunFolder

    folder = RunFolder.open(run)
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder.")
    if not folder.model.is_dir():
        raise UserError(f"{run} has no tuned model yet: refine train --resume {quoted(run)}")
    # Written aside first: under its name it is whole.
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if merged:
            from refine_rl.again import open_model

            _, policy = open_model(folder)
            policy.save_merged(aside)
        else:
            shutil.copytree(folder.model, aside)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    typer.echo(out)
