"""refine chat, refine export: the tuned model in use."""

from __future__ import annotations

from pathlib import Path

import typer

from refine_rl.errors import UserError


def add_to(app: typer.Typer) -> None:
    app.command()(chat)
    app.command()(export)


def chat(
    run: Path = typer.Argument(..., help="A run with a tuned model."),
    base: bool = typer.Option(False, "--base", help="Show the untrained model's answer as well."),
    temperature: float = typer.Option(0.0, "--temperature", min=0.0, help="0: the most likely answer."),
    max_tokens: int | None = typer.Option(None, "--max-tokens", min=1, help="Without it, the run's limit."),
    system: str | None = typer.Option(None, "--system", help="Without it, the run's own system message."),
) -> None:
    """Talk to the tuned model. Every message stands alone, as in training; an empty line ends."""
    from refine_rl.again import open_model
    from refine_rl.chatting import reply
    from refine_rl.cli.screen import results, talk
    from refine_rl.runs import RunFolder

    folder = RunFolder.open(run)
    settings, policy = open_model(folder)
    system = settings.prompts.system if system is None else system
    limit = max_tokens or settings.rollout.max_tokens
    talk().print(f"{settings.model.name}, tuned: {settings.task.strip()}\nAn empty line ends.", markup=False)
    console = results()
    turn = 0
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if not text.strip():
            return
        turn += 1
        if base:
            with policy.reference() as untrained:
                console.print(
                    f"base:  {reply(untrained, text, system, temperature, limit, turn)}", markup=False
                )
        console.print(f"tuned: {reply(policy, text, system, temperature, limit, turn)}", markup=False)


def export(
    run: Path = typer.Argument(..., help="A run with a tuned model."),
    out: Path = typer.Option(..., "--out", help="The folder to write; it must not exist yet."),
    merged: bool = typer.Option(False, "--merged", help="One ordinary model, the adapter merged in."),
) -> None:
    """Write the tuned model to a folder that transformers (and vLLM, llama.cpp's converter ...) loads."""
    import shutil

    from refine_rl.again import open_model
    from refine_rl.runs import RunFolder

    folder = RunFolder.open(run)
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder.")
    if not folder.model.is_dir():
        raise UserError(f"{run} has no tuned model yet: refine train --resume {run}")
    if merged:
        _, policy = open_model(folder)
        aside = out.with_name(f".{out.name}.new")
        policy.save_merged(aside)
        aside.rename(out)
    else:
        shutil.copytree(folder.model, out)
    typer.echo(out)
