"""The command line: flags -> settings -> one call. No logic of its own.

Nothing here imports torch or transformers until a command needs them: `refine --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from refine_rl.cli import (
    bench,
    chat,
    check,
    compare,
    data,
    doctor,
    evidence,
    model,
    planning,
    play,
    review,
    runs,
    scoring,
    serve,
    sft,
    skills,
    tasks,
    training,
    watch,
)
from refine_rl.cli.interrupt import StopNow, stop_at_once
from refine_rl.cli.streams import close_output, prepare_streams, require_text
from refine_rl.errors import Interrupted, MachineError, RefineError, UserError, disk_error


class _InOrder(TyperGroup):
    """Lists `data`, which has commands of its own, before what follows upon data."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = list(COMMANDS)
        names.insert(names.index("prompts"), "data")
        return names


app = typer.Typer(
    name="refine",
    cls=_InOrder,
    help="Describe a behaviour in plain words; Re:Fine turns an open language model into one that shows it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {  # in the order of the help
    "demo": training.demo,
    "train": training.train,
    "sft": sft.sft,
    "recipes": tasks.recipes,
    "init": tasks.init,
    "prompts": tasks.prompts,
    "plan": planning.plan,
    "doctor": doctor.doctor,
    "check": check.check,
    "score": scoring.score,
    "eval": evidence.evaluate,
    "compare": compare.compare,
    "report": evidence.report,
    "watch": watch.watch,
    "review": review.review,
    "replay": evidence.replay,
    "runs": runs.runs,
    "chat": chat.chat,
    "serve": serve.serve,
    "play": play.play,
    "export": model.export,
    "bench": bench.bench,
    "skills": skills.skills,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(data.app, name="data")


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
    prepare_streams()
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        require_text(sys.argv[1:])
        code = app(prog_name="refine", standalone_mode=False)
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.exit(code or 0)
    except StopNow as stop:
        _say(Interrupted(str(stop)))
        _leave(Interrupted.exit_code)
    except typer.Abort:
        _say(Interrupted("Nothing was done."))
        sys.exit(Interrupted.exit_code)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `refine` alone; no public name of the parser's
            typer.echo(error.format_message(), err=True)  # type: ignore[attr-defined]
            sys.exit(UserError.exit_code)
        known = _known(error)
        if known is None:
            raise
        _say(known)
        close_output()
        if any(thread.name.startswith("refine-") for thread in threading.enumerate()):
            _leave(known.exit_code)
        sys.exit(known.exit_code)


def _leave(code: int) -> NoReturn:
    """Not sys.exit: it would wait for the thread of a reward function that may never come back."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _known(error: Exception) -> RefineError | None:
    """The error as one that a person can act on, or None where it is a defect of ours."""
    if isinstance(error, RefineError):
        return error
    if hasattr(error, "format_message"):  # of the parser of the command line
        return _usage(error)
    if (disk := disk_error(error)) is not None:
        return disk
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}."
        place = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
        return UserError(text) if isinstance(error, place) else MachineError(text)
    no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # a processor's
    if no_memory or type(error).__name__ in ("OutOfMemoryError", "MemoryError"):  # without importing torch
        return MachineError(
            "Out of memory. Lower grpo.tokens_per_micro_batch, rollout.group_size or rollout.max_tokens "
            "(--set KEY=VALUE), or take a smaller model."
        )
    return None


def _usage(error: Any) -> UserError:
    """A command that cannot be understood; its own class is no public name of the parser's."""
    if type(error).__name__ == "MissingParameter" and (gone := _not_there(error)):
        return UserError(gone)
    message = str(error.format_message())
    end = "" if message.endswith((".", "?", "!")) else "."
    where = getattr(getattr(error, "ctx", None), "command_path", "refine")
    return UserError(f"{message}{end} See: {where} --help")


def _not_there(error: Any) -> str:
    """That a file or folder which the command names is not there, which no option mends that is missing; ""
    where all of them are."""
    from refine_rl.run.near import did_you_mean

    arguments = {p.name for p in error.ctx.command.params if p.param_type_name == "argument"}
    given = [v for name, v in error.ctx.params.items() if name in arguments and isinstance(v, Path)]
    return "\n".join(f"{p}: no such file or folder.{did_you_mean(p)}" for p in given if not p.exists())


def _say(error: RefineError) -> None:
    """The last words. Another Ctrl-C neither cuts them off nor, while the interpreter ends, adds a traceback
    to them."""
    from refine_rl.report.screen import print_error

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print_error(error)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
