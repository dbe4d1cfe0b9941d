"""refine export, and what commands that open a model share."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import typer

CHECKPOINT = typer.Option(
    None,
    "--checkpoint",
    metavar="best|last|STEP",
    help="These weights in place of the tuned model; also of a run that is not finished.",
)


def line_editing() -> None:
    """Arrows move in the line and bring earlier messages back, where there is a terminal that can."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not on Windows, where the console does it
            import readline  # noqa: F401 - input() uses it once it is there


def next_message() -> str:
    """What the person writes next; "" at an empty line and at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def export(
    run: Path = typer.Argument(..., help="A run with a tuned model; one without with --checkpoint."),
    out: Path | None = typer.Option(None, "--out", help="The folder to write; it must not exist yet."),
    merged: bool = typer.Option(False, "--merged", help="One ordinary model, the adapter merged in."),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        metavar="float32|bfloat16",
        help="With --merged: the weights' number format; without it, the run's.",
    ),
    gguf: Path | None = typer.Option(None, "--gguf", metavar="FILE", help="One file for llama.cpp."),
    ollama: str | None = typer.Option(
        None, "--ollama", metavar="NAME", help="A model of Ollama; with --out, its files in that folder."
    ),
    outtype: str | None = typer.Option(
        None,
        "--outtype",
        metavar="f32|f16|bf16|q8_0",
        help="With --gguf or --ollama: the weights' number format; without it, the run's.",
    ),
    llama_cpp: Path | None = typer.Option(
        None, "--llama-cpp", metavar="DIR", help="llama.cpp's folder; without it, LLAMA_CPP's or on PATH."
    ),
    hub: str | None = typer.Option(
        None, "--hub", metavar="OWNER/NAME", help="Onto the hub, as an adapter or --merged."
    ),
    private: bool = typer.Option(False, "--private", help="With --hub: a new repository is private."),
    checkpoint: str | None = CHECKPOINT,
    check: bool = typer.Option(
        True, "--check/--no-check", help="Load it as its readers do and compare, or not (a large model)."
    ),
) -> None:
    """Write the tuned model for other programs. As a folder that transformers and peft load (--out), one file
    for llama.cpp (--gguf), a model of Ollama (--ollama) or a repository of the hub (--hub). What was written
    is loaded as its readers load it, and compared with the tuned model."""
    from refine_rl.pipeline.export_forms import Form, export_as
    from refine_rl.pipeline.weights import choose_weights
    from refine_rl.report.screen import Screen
    from refine_rl.run import RunFolder

    folder = RunFolder.open(run)
    form = Form(
        out=out,
        merged=merged,
        dtype=dtype,
        gguf=gguf,
        ollama=ollama,
        outtype=outtype,
        llama_cpp=llama_cpp,
        hub=hub,
        private=private,
    )
    form.require_possible()
    weights = choose_weights(folder, checkpoint)
    with Screen() as shown:
        where = export_as(folder, form, weights=weights, check=check, observer=shown)
    typer.echo(where)
