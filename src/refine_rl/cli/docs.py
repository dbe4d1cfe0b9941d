"""docs/cli.md, made from the command line itself: `python -m refine_rl.cli.docs`."""

from __future__ import annotations

import typer.main
from typer.cli import get_docs_for_click

from refine_rl.cli import app

_NOTE = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 2 | a mistake in the settings, the files, the model or the flags; `refine replay` also where it differs |
| 3 | stopped by a guard; the state was saved |
| 4 | an endpoint, the memory or the disk failed |
| 130 | interrupted with Ctrl-C; `refine train --resume RUN` goes on |

Results go to standard output, progress and messages to standard error.
"""


def cli_markdown() -> str:
    """The page: every command with its arguments and options."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="refine")
    page = get_docs_for_click(obj=command, ctx=context, name="refine", title="The command line")
    return page.strip() + "\n" + _NOTE


if __name__ == "__main__":
    print(cli_markdown(), end="")
