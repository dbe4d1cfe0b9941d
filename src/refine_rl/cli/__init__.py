"""The command line: flags -> settings -> one call. No logic of its own.

Nothing here imports torch or transformers until a command needs them: `refine --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from refine_rl.cli import evidence, model, tasks, training
from refine_rl.errors import Interrupted, RefineError

app = typer.Typer(
    name="refine",
    help="Describe a behaviour in plain words; Re:Fine turns an open language model into one that shows it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (training, tasks, evidence, model):
    room.add_to(app)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"refine {installed('refine-rl')}")
        raise typer.Exit


def main() -> None:
    """Runs a command; turns our errors into a message and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except RefineError as error:
        from refine_rl.cli.screen import print_error

        print_error(error)
        sys.exit(error.exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("Interrupted.")
