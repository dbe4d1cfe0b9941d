"""Standard input, output and error: text of any kind goes through, and results stay apart from the rest."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from refine_rl.errors import UserError


def prepare_streams() -> None:
    """Once, before a command."""
    # A stream that was closed (>&-) would leave its number to the next file that is opened.
    nowhere = Path(os.devnull)
    sys.stdin = sys.stdin or nowhere.open(encoding="utf-8")
    sys.stdout = sys.stdout or nowhere.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Foreign text may hold what the terminal's encoding has no sign for.
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is no character becomes U+FFFD
    for name in ("COLUMNS", "LINES"):
        size = os.environ.get(name)
        if size is not None and not (size.isdecimal() and int(size) > 0):
            del os.environ[name]  # else tables of no width at all


def require_text(arguments: Sequence[str]) -> None:
    """Raises UserError for bytes that no file of ours, and no tokenizer, can take."""
    for what, text in (*(("argument", a) for a in arguments), ("folder", os.getcwd())):  # noqa: PTH109
        try:
            text.encode()
        except UnicodeEncodeError:
            way_out = "say it in UTF-8" if what == "argument" else "rename it, or work in another one"
            raise UserError(f"The {what} {text!r} is not UTF-8 text: {way_out}.") from None


@contextlib.contextmanager
def results_apart() -> Iterator[None]:
    """Inside, what foreign code prints (a reward, a file of prompts, a process that they start) goes to
    standard error: standard output is for results, which a program may read."""
    with contextlib.redirect_stdout(sys.stderr), _first_descriptor_is_the_second():
        yield


@contextlib.contextmanager
def _first_descriptor_is_the_second() -> Iterator[None]:
    sys.stdout.flush()
    try:
        before = os.dup(1)
    except OSError:  # closed: nothing can land there
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def close_output() -> None:
    """After standard output could not be written: what is still kept for it would fail again at the end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
