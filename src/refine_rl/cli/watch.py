"""refine watch: the report, live."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from refine_rl.cli.interrupt import StopNow, until_stopped


def watch(
    run: Path = typer.Argument(..., help="A run's folder; also one that is to begin there."),
    port: int = typer.Option(
        8710, "--port", min=0, max=65535, help="Where it is taken, the next free one; 0: any."
    ),
    open_browser: bool | None = typer.Option(
        None, "--open/--no-open", help="Open the page in the browser. Without it, where there is a screen."
    ),
) -> None:
    """Watch a run in the browser. Its report, live, to this machine alone; it only reads the run's files, and
    Ctrl-C ends the watching, not the run."""
    from refine_rl.pipeline.watch import watchable
    from refine_rl.report.screen import results, say, talk
    from refine_rl.run.near import did_you_mean

    watched = watchable(run)
    with watched.at(port) as address:
        say(results(), f"Watching {run}: {address}")
        sys.stdout.flush()
        served = int(address.rstrip("/").rpartition(":")[2])
        if port and served != port:
            say(talk(), f"Port {port} is taken; this is the next free one.")
        if not watched.run.begun:
            say(talk(), f"There is no run in {run} yet: the page waits for it to begin.{did_you_mean(run)}")
        introduce(address, served, open_browser, "Ctrl-C ends the watching, not the run.")
        try:
            until_stopped()
        except StopNow:
            say(talk(), f"\n{run} is no longer watched.")


def introduce(address: str, port: int, open_browser: bool | None, ending: str) -> None:
    """Says how a page of this machine is seen from another one and how it ends, and opens it."""
    from refine_rl.report.screen import say, talk

    if from_afar := _from_afar(port):
        say(talk(), from_afar)
    say(talk(), ending)
    if open_browser or (open_browser is None and _has_screen()):
        import webbrowser

        if not webbrowser.open(address) and open_browser:
            say(talk(), f"No browser could be opened: open {address} yourself.")


def _from_afar(port: int) -> str:
    """How to see the page from the machine that a person sits at, where this is another one."""
    if not os.environ.get("SSH_CONNECTION"):
        return ""
    import getpass
    import socket

    there = f"{getpass.getuser()}@{socket.gethostname()}"
    return f"From your own machine: ssh -L {port}:127.0.0.1:{port} {there}, then open the address there."


def _has_screen() -> bool:
    """Whether a browser that opens would be seen."""
    if not sys.stderr.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
