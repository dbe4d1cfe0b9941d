"""refine export, and what commands that open a model share."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import typer

from refine_rl.errors import UserError

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
    out: Path = typer.Option(..., "--out", help="The folder to write; it must not exist yet."),
    merged: bool = typer.Option(False, "--merged", help="One ordinary model, the adapter merged in."),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        metavar="float32|bfloat16",
        help="With --merged: the weights' number format; without it, the run's.",
    ),
    checkpoint: str | None = CHECKPOINT,
) -> None:
    """Write the tuned model to a new folder. transformers loads it, and so does all that reads its form."""
    from refine_rl.pipeline.export import export_model, told_of
    from refine_rl.pipeline.weights import choose_weights
    from refine_rl.run import RunFolder

    folder = RunFolder.open(run)
    if dtype is not None and not merged:
        raise UserError("--dtype goes with --merged: an adapter by itself is float32 always.")
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"--dtype {dtype}: it is float32 or bfloat16.")
    weights = choose_weights(folder, checkpoint)
    lost = export_model(folder, out, merged=merged, dtype=dtype, weights=weights)
    if merged:
        if bits := folder.settings().model.quantised:
            from refine_rl.report.screen import Screen

            Screen().note(f"the base was trained on in {bits} bits: these are its weights unpacked")
        if told := told_of(lost):
            from refine_rl.report.screen import Screen

            Screen().warning(told)
    typer.echo(out)
